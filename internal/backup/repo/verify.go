package repo

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/maintenance"
	"github.com/kopia/kopia/repo/object"

	"cowl/internal/errs"
)

// VerifyOptions say how much is looked at.
type VerifyOptions struct {
	// Sample is the part of what could be read that is, chosen by chance; 0
	// means all.
	Sample float64
	// State is a file that remembers what was found good, so that a run that is
	// interrupted is gone on with by the next; "" remembers nothing.
	State string
	// Progress is told how many of the bytes that are to be read have been.
	Progress func(done, total int64)
}

// BlobDamage is a blob that is not what it was when it was written.
type BlobDamage struct {
	Blob  string `json:"blob"`
	Cause string `json:"cause"`
}

// Range is a run of bytes of an image that cannot be read right.
type Range struct {
	Off   int64  `json:"offset"`
	Len   int64  `json:"length"`
	Cause string `json:"cause"`
}

// Verdict is what was found of one backup.
type Verdict struct {
	Backup *Backup `json:"backup"`
	Good   bool    `json:"good"`
	Damage []Range `json:"damage,omitempty"`
	// Fault is why the backup cannot be read at all.
	Fault string `json:"fault,omitempty"`
}

// Verification is what was found of a repository.
type Verification struct {
	Blobs        int          `json:"blobs"`        // there are
	BytesRead    int64        `json:"bytes_read"`   // in this run
	BlobsRead    int          `json:"blobs_read"`   // and found good, in this run
	BlobsBefore  int          `json:"blobs_before"` // found good by the run that this one goes on with
	Unreferenced int          `json:"unreferenced"` // blobs that nobody refers to
	Unsummed     int          `json:"without_sums"` // blobs that were checked by decrypting them
	Damage       []BlobDamage `json:"damage,omitempty"`
	Backups      []*Verdict   `json:"backups"`
	Good         bool         `json:"good"`
	Seconds      float64      `json:"seconds"`
}

// verifier is a verification on its way.
type verifier struct {
	r    *Repo
	o    VerifyOptions
	sums *sums
	v    *Verification

	blobs map[blob.ID]int64  // lengths
	used  map[blob.ID]bool   // packs that contents are in
	todo  []blob.Metadata    // that are to be read
	loose map[blob.ID]bool   // packs without a checksum
	known map[object.ID]bool // indexes of groups that were found good
	state *verifyState

	mu  sync.Mutex
	bad map[blob.ID]string // why a blob is not what it was; guarded by mu
	// lost are the contents that cannot be read of packs in examined; in all
	// other bad ones nothing can. Guarded by mu.
	lost     map[content.ID]string
	examined map[blob.ID]bool
}

// Verify reads the blobs of the repository and compares them with their
// checksums, and checks that everything that the backups refer to is in
// them. A verification with Good false comes with an error of kind
// errs.Corrupt that names the first damage.
func (r *Repo) Verify(ctx context.Context, o VerifyOptions) (*Verification, error) {
	started := time.Now()
	v := newVerifier(r, o)
	if err := v.run(ctx); err != nil {
		return nil, err
	}
	v.conclude()
	v.v.Seconds = time.Since(started).Seconds()
	if v.v.Good {
		return v.v, nil
	}
	return v.v, v.v.err(r.Name())
}

func (v *verifier) run(ctx context.Context) (err error) {
	if v.state, err = openVerifyState(v.o.State, v.r.ID()); err != nil {
		return err
	}
	defer v.state.close()
	if err := v.load(ctx); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{v.checkFixed, v.readBlobs, v.readContents, v.checkBackups} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if len(v.bad) == 0 && v.o.Sample == 0 {
		return v.state.remove() // all of it is done
	}
	return nil
}

// load finds out what there is and what should be.
func (v *verifier) load(ctx context.Context) (err error) {
	if v.sums, err = v.r.loadSums(ctx); err != nil {
		return err
	}
	for id, err := range v.sums.damaged {
		v.condemn(id, err.Error())
	}
	if v.r.rep != nil {
		err := v.r.rep.ContentReader().IteratePacks(ctx, content.IteratePackOptions{}, func(p content.PackInfo) error {
			v.used[p.PackID] = true
			return nil
		})
		if err != nil {
			return v.r.damage(ctx, err)
		}
	}
	return v.list(ctx)
}

// VerifyStore is Verify for a repository that cannot be opened: it finds the
// blobs that are damaged, and cannot tell which backups are.
func VerifyStore(ctx context.Context, s Store, o VerifyOptions) (*Verification, error) {
	started := time.Now()
	v := newVerifier(&Repo{store: newProof(s)}, o)
	v.state = &verifyState{}
	// A damaged layout leads nowhere: there is nothing more to be found then.
	steps := []func(context.Context) error{v.load, v.readBlobs}
	if v.checkLayout(); len(v.bad) > 0 {
		steps = nil
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	v.conclude()
	v.v.Seconds = time.Since(started).Seconds()
	if v.v.Good {
		return v.v, nil
	}
	return v.v, v.v.err(s.name())
}

func newVerifier(r *Repo, o VerifyOptions) *verifier {
	return &verifier{
		r: r, o: o, v: &Verification{}, bad: map[blob.ID]string{}, known: map[object.ID]bool{},
		blobs: map[blob.ID]int64{}, used: map[blob.ID]bool{}, loose: map[blob.ID]bool{},
		lost: map[content.ID]string{}, examined: map[blob.ID]bool{},
	}
}

// condemn notes down that a blob cannot be used.
func (v *verifier) condemn(id blob.ID, cause string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.bad[id] == "" {
		v.bad[id] = cause
	}
}

// list sorts the blobs that there are.
func (v *verifier) list(ctx context.Context) error {
	err := v.r.store.ListBlobs(ctx, "", func(m blob.Metadata) error {
		v.blobs[m.BlobID] = m.Length
		switch _, summed := v.sums.blobs[m.BlobID]; {
		case strings.HasPrefix(string(m.BlobID), "cowl."), m.BlobID == scheduleBlob:
		case summed:
			v.plan(m)
		case v.used[m.BlobID]:
			v.loose[m.BlobID] = true
		case isPack(m.BlobID):
			v.v.Unreferenced++
		}
		return nil
	})
	v.v.Blobs = len(v.blobs)
	for id := range v.used {
		if _, ok := v.blobs[id]; !ok {
			v.condemn(id, "it is missing")
		}
	}
	return explain(ctx, err)
}

func isPack(id blob.ID) bool {
	return slices.ContainsFunc(content.PackBlobIDPrefixes, func(p blob.ID) bool { return strings.HasPrefix(string(id), string(p)) })
}

// plan decides whether a blob is read. Small ones always are.
func (v *verifier) plan(m blob.Metadata) {
	switch {
	case v.state.has(m.BlobID):
		v.v.BlobsBefore++
	case v.o.Sample > 0 && isPack(m.BlobID) && rand.Float64() >= v.o.Sample:
	default:
		v.todo = append(v.todo, m)
	}
}

// layoutChecker is a store with something beside its blobs that can be damaged.
type layoutChecker interface{ CheckLayout() error }

func (v *verifier) checkLayout() {
	if l, ok := v.r.store.st.(layoutChecker); ok {
		if err := l.CheckLayout(); err != nil {
			v.condemn("(layout)", err.Error())
		}
	}
}

// checkFixed looks at what has no checksum of ours and is not in packs.
func (v *verifier) checkFixed(ctx context.Context) error {
	if _, err := maintenance.GetSchedule(ctx, v.r.rep); err != nil {
		err := v.r.damage(ctx, err)
		if !errs.Is(err, errs.Corrupt) {
			return err
		}
		v.condemn(scheduleBlob, err.Error())
	}
	v.checkLayout()
	return nil
}

// readBlobs reads what is to be read, several at once.
func (v *verifier) readBlobs(ctx context.Context) error {
	slices.SortFunc(v.todo, func(a, b blob.Metadata) int { return cmp.Compare(a.BlobID, b.BlobID) })
	var total int64
	for _, m := range v.todo {
		total += m.Length
	}
	var done atomic.Int64
	step := func(n int64) {
		if v.o.Progress != nil {
			v.o.Progress(done.Add(n), total)
		}
	}
	step(0)
	return eachParallel(ctx, v.todo, func(ctx context.Context, m blob.Metadata) error {
		good, err := v.readBlob(ctx, m)
		step(m.Length)
		if err != nil || !good {
			return err
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		v.v.BlobsRead++
		v.v.BytesRead += m.Length
		return v.state.add(m.BlobID)
	})
}

// readBlob compares a blob with its checksum. The error is of the context.
func (v *verifier) readBlob(ctx context.Context, m blob.Metadata) (good bool, err error) {
	d := newDigester()
	if err := v.r.store.GetBlob(ctx, m.BlobID, 0, -1, d); err != nil {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		v.condemn(m.BlobID, explain(ctx, err).Error())
		return false, nil
	}
	want, got := v.sums.blobs[m.BlobID], d.entry()
	switch {
	case got.Length != want.Length:
		v.condemn(m.BlobID, fmt.Sprintf("it has %d bytes instead of %d", got.Length, want.Length))
	case got.SHA256 != want.SHA256:
		v.condemn(m.BlobID, fmt.Sprintf("SHA-256 differs (want %s, got %s)", want.SHA256, got.SHA256))
	default:
		return true, nil
	}
	return false, nil
}

// readContents decrypts what is in packs without a checksum, which the stock
// kopia wrote or a run that was killed before it could write theirs, and in
// those that are damaged, to see what of them is lost.
func (v *verifier) readContents(ctx context.Context) error {
	v.v.Unsummed = len(v.loose)
	for id := range v.bad {
		if _, there := v.blobs[id]; there && isPack(id) {
			v.examined[id] = true
		}
	}
	if len(v.loose)+len(v.examined) == 0 {
		return nil
	}
	var todo []content.Info
	err := v.r.rep.ContentReader().IterateContents(ctx, content.IterateOptions{}, func(i content.Info) error {
		if v.loose[i.PackBlobID] || v.examined[i.PackBlobID] {
			todo = append(todo, i)
		}
		return ctx.Err()
	})
	if err != nil {
		return v.r.damage(ctx, err)
	}
	return eachParallel(ctx, todo, func(ctx context.Context, i content.Info) error {
		b, err := v.r.rep.ContentReader().GetContent(ctx, i.ContentID)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			v.condemn(i.PackBlobID, fmt.Sprintf("content %s cannot be read", i.ContentID))
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		v.v.BytesRead += int64(len(b))
		if err != nil {
			v.examined[i.PackBlobID] = true
			v.lost[i.ContentID] = explain(ctx, err).Error()
		}
		return nil
	})
}

// conclude fills in what follows from the rest.
func (v *verifier) conclude() {
	for id, cause := range v.bad {
		v.v.Damage = append(v.v.Damage, BlobDamage{string(id), cause})
	}
	slices.SortFunc(v.v.Damage, func(a, b BlobDamage) int { return cmp.Compare(a.Blob, b.Blob) })
	v.v.Good = len(v.v.Damage) == 0 && !slices.ContainsFunc(v.v.Backups, func(b *Verdict) bool { return !b.Good })
}

// err makes one error of what was found.
func (v *Verification) err(name string) error {
	first := ""
	if len(v.Damage) > 0 {
		first = fmt.Sprintf("blob %s: %s", v.Damage[0].Blob, v.Damage[0].Cause)
	}
	bad := 0
	for _, b := range v.Backups {
		if b.Good {
			continue
		}
		if bad++; first == "" {
			first = fmt.Sprintf("backup %s: %s", b.Backup.ID, b.cause())
		}
	}
	return errs.E(errs.Corrupt, "%s is damaged: %d of its blobs, with %d of %d backups; the first: %s", name, len(v.Damage), bad, len(v.Backups), first)
}

func (v *Verdict) cause() string {
	if v.Fault != "" || len(v.Damage) == 0 {
		return v.Fault
	}
	d := v.Damage[0]
	return fmt.Sprintf("bytes %d to %d: %s", d.Off, d.Off+d.Len-1, d.Cause)
}

// eachParallel calls f for every item, several at once, until one fails.
func eachParallel[T any](ctx context.Context, items []T, f func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		next atomic.Int64
		wg   sync.WaitGroup
	)
	for range min(2*runtime.GOMAXPROCS(0), 16, max(len(items), 1)) {
		wg.Go(func() {
			for n := next.Add(1) - 1; n < int64(len(items)) && ctx.Err() == nil; n = next.Add(1) - 1 {
				if err := f(ctx, items[n]); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
