package backup

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"cowl/internal/backup/repo"
	"cowl/internal/backup/repo/localstore"
	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/mem"
	"cowl/internal/volume"
)

// tracker is a volume that is backed up into a repository again and again.
type tracker struct {
	*testing.T
	g    *fakeGroup
	dir  string
	repo *repo.Repo
	vol  *fakeLV
	disk *mem.Device // below the origin: what is written here nobody is told of

	read []byte // what the snapshot of the last backup held
}

func newTracker(t *testing.T, size int64) *tracker {
	t.Helper()
	g := newGroup(t)
	r := &tracker{T: t, g: g, dir: t.TempDir(), disk: mem.New(size)}
	scatter(t, r.disk, seed(t), 40)
	r.vol = g.add("v", r.disk)
	if err := repo.Init(ctx, r.store(true), "secret", repo.Options{KDF: repo.PBKDF2}); err != nil {
		t.Fatal(err)
	}
	r.repo = r.open()
	g.wrap = func(name string, d block.Device) block.Device {
		if strings.Contains(name, ".backup_") {
			r.read = content(t, d)
		}
		return d
	}
	return r
}

func (r *tracker) store(create bool) repo.Store {
	r.Helper()
	st, err := localstore.New(r.dir, create)
	if err != nil {
		r.Fatal(err)
	}
	return repo.Store{Storage: st}
}

func (r *tracker) open() *repo.Repo {
	r.Helper()
	opened, err := repo.Open(ctx, r.store(false), "secret", repo.Options{})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { opened.Close(ctx) })
	return opened
}

// options are those of a backup, as alter changes them.
func (r *tracker) options(alter ...func(*RepositoryOptions)) RepositoryOptions {
	o := RepositoryOptions{LV: "v", Repo: r.repo, Tool: "test"}
	for _, f := range alter {
		f(&o)
	}
	return o
}

// backup makes a backup, and checks that its image is what the snapshot held.
func (r *tracker) backup(alter ...func(*RepositoryOptions)) *RepositoryReport {
	r.Helper()
	report, err := RunRepository(ctx, r.g, r.options(alter...))
	if err != nil {
		r.Fatal(err)
	}
	b, err := r.repo.Find(ctx, report.Backup)
	if err != nil {
		r.Fatal(err)
	}
	image, _, err := r.repo.Image(ctx, b)
	if err != nil {
		r.Fatal(err)
	}
	if !bytes.Equal(content(r.T, image), r.read) {
		r.Fatalf("backup %+v is not what the snapshot held", report)
	}
	return report
}

// tracking returns the one tracking snapshot, which is the report's.
func (r *tracker) tracking(report *RepositoryReport) *volume.LV {
	r.Helper()
	if got := r.g.snapshots(); !slices.Equal(got, []string{report.Snapshot}) || !report.SnapshotKept {
		r.Fatalf("there are snapshots %q, the report says %+v", got, report)
	}
	lv := r.g.vg.LV(report.Snapshot)
	if want := TrackingTag + r.repo.ID() + ":" + report.Backup; !slices.Contains(lv.Tags, want) || slices.Contains(lv.Tags, Tag) || !lv.ReadOnly() {
		r.Fatalf("the snapshot has tags %q, not %s", lv.Tags, want)
	}
	if p := lv.GrowthOf(volume.Growth{OnFull: volume.OnFullReadOnly}); p.OnFull != volume.OnFullInvalidate {
		r.Fatalf("when the snapshot is full the volume suffers: %+v", p)
	}
	return lv
}

func (r *tracker) write(off int64, p []byte) {
	r.Helper()
	if _, err := r.vol.dev.WriteAt(p, off); err != nil {
		r.Fatal(err)
	}
}

func (r *tracker) noise(off int64, n int) {
	r.Helper()
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(rand.Int())}).Read(b)
	r.write(off, b)
}

// The second backup reads what changed, and the third what changed since the
// second.
func TestIncrement(t *testing.T) {
	r := newTracker(t, 32*mib)
	first := r.backup()
	if first.Base != "" || first.FullBecause == "" || len(first.Notes) > 0 {
		t.Errorf("the first backup: %+v", first)
	}
	r.tracking(first)
	for range 3 {
		r.noise(5*mib+100, 1000)
		r.noise(20*mib-10, 100<<10)
		next := r.backup()
		r.tracking(next)
		if next.Base != first.Backup || next.FullBecause != "" || next.Read > 4*64<<10 || next.Changed > next.Read || next.Changed < 100<<10 || len(next.Notes) > 0 {
			t.Errorf("an increment: %+v", next)
		}
		first = next
	}
	same := r.backup()
	if same.Base != first.Backup || same.Read != 0 || same.Changed != 0 {
		t.Errorf("nothing changed: %+v", same)
	}
	full := r.backup(func(o *RepositoryOptions) { o.Full = true })
	if full.Base != "" || full.Read < mib || full.Changed < mib || full.Written > 256<<10 {
		t.Errorf("asked for everything: %+v", full)
	}
	r.tracking(full)
}

// Many rounds, while somebody goes on writing, discarding and restoring: every
// image is what its snapshot held.
func TestIncrementsUnderLoad(t *testing.T) {
	const size = 4 * mib
	rounds := 6
	if blocktest.Long() {
		rounds = 60
	}
	r := newTracker(t, size)
	s := seed(t)
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for w := range 2 {
		rng := rand.New(rand.NewPCG(s, uint64(w)))
		writers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				n := 1 + rng.Int64N(90<<10)
				off := rng.Int64N(size - n)
				switch rng.IntN(12) {
				case 0:
					r.vol.dev.WriteZeroes(off, n)
				case 1:
					r.vol.dev.Discard(off, n)
				default:
					b := make([]byte, n)
					b[rng.Int64N(n)] = byte(rng.Uint32())
					r.vol.dev.WriteAt(b, off)
				}
			}
		})
	}
	rng := rand.New(rand.NewPCG(s, 99))
	increments := 0
	for range rounds {
		o := func(o *RepositoryOptions) { o.NoTrack, o.Full = rng.IntN(6) == 0, rng.IntN(6) == 0 }
		if r.backup(o).Base != "" {
			increments++
		}
	}
	close(stop)
	writers.Wait()
	t.Logf("%d increments", increments)
}

// Whenever it is not certain what has changed, everything is read, and the
// person is told.
func TestGapsBecomeFullReads(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, r *tracker, first *RepositoryReport)
		why    string
	}{
		{"snapshot removed", func(t *testing.T, r *tracker, first *RepositoryReport) {
			if _, err := r.g.RemoveLVs(ctx, []string{first.Snapshot}); err != nil {
				t.Fatal(err)
			}
		}, "is gone"},
		{"snapshot overflowed", func(t *testing.T, r *tracker, first *RepositoryReport) {
			r.g.overflow(first.Snapshot)
		}, "invalid"},
		{"another snapshot with its tags", func(t *testing.T, r *tracker, first *RepositoryReport) {
			tags := r.g.vg.LV(first.Snapshot).Tags
			r.noise(3*mib, 1000) // which the new one is never told of
			if _, err := r.g.RemoveLVs(ctx, []string{first.Snapshot}); err != nil {
				t.Fatal(err)
			}
			r.g.snapshot(volume.SnapshotSpec{Origin: "v", Name: first.Snapshot, ReadOnly: true, Tags: tags})
		}, "is gone"},
		{"its time is another", func(t *testing.T, r *tracker, first *RepositoryReport) {
			r.g.vg.LV(first.Snapshot).CreationTime++
		}, "is not that of backup"},
		{"metadata from before", func(t *testing.T, r *tracker, first *RepositoryReport) {
			r.g.vg.Seqno--
		}, "has gone back"},
		{"the backup forgotten", func(t *testing.T, r *tracker, first *RepositoryReport) {
			b, err := r.repo.Find(ctx, first.Backup)
			if err == nil {
				err = r.repo.Delete(ctx, []*repo.Backup{b})
			}
			if err != nil {
				t.Fatal(err)
			}
		}, "there is no earlier backup"},
		{"a write that nobody was told of", func(t *testing.T, r *tracker, first *RepositoryReport) {
			if _, err := r.disk.WriteAt([]byte("past the snapshot"), 100); err != nil {
				t.Fatal(err)
			}
		}, "are said not to have changed, and have"},
		{"a later backup's snapshot is gone", func(t *testing.T, r *tracker, first *RepositoryReport) {
			// As after restoring metadata from a copy: the older one is there again.
			keep := r.g.vg.LV(first.Snapshot)
			r.g.remove = func(name string) error {
				if name == keep.Name {
					return errors.New("not this one")
				}
				return nil
			}
			second := r.backup()
			if len(second.Notes) != 1 || !strings.Contains(second.Notes[0], keep.Name+" of an earlier backup was left behind") {
				t.Errorf("%+v", second)
			}
			if _, err := r.g.RemoveLVs(ctx, []string{second.Snapshot}); err != nil {
				t.Fatal(err)
			}
			r.g.remove = nil
		}, "is gone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newTracker(t, 4*mib)
			r.g.vg.Seqno = 7
			first := r.backup(func(o *RepositoryOptions) { o.SnapshotSize = volume.Size{Bytes: mib} })
			c.damage(t, r, first)
			r.noise(2*mib, 5000)
			next := r.backup()
			if next.Base != "" || !strings.Contains(next.FullBecause, c.why) {
				t.Errorf("%+v", next)
			}
			if c.name != "the backup forgotten" && (len(next.Notes) != 1 || !strings.Contains(next.Notes[0], c.why)) {
				t.Errorf("said %q", next.Notes)
			}
			r.tracking(next) // and the old one is gone
			r.noise(mib, 5000)
			if again := r.backup(); again.Base != next.Backup {
				t.Errorf("the one after that: %+v", again)
			}
		})
	}
}

// overflow makes a snapshot invalid, as a full store is.
func (g *fakeGroup) overflow(name string) {
	g.t.Helper()
	v := g.vols[name]
	for off := int64(0); !v.store.Usage().Invalid; off += mib {
		if off >= v.of.dev.Size() {
			g.t.Fatal("it has room for everything")
		}
		b := content(g.t, v.of.dev)[off:][:mib]
		if _, err := v.of.dev.WriteAt(b, off); err != nil {
			g.t.Fatal(err)
		}
		v.of.origin.Settle()
	}
}

// A volume that has grown is read behind the end of the old image.
func TestIncrementOfAVolumeThatGrew(t *testing.T) {
	r := newTracker(t, 4*mib)
	first := r.backup()
	longer := mem.New(7 * mib)
	longer.WriteAt(content(t, r.vol.dev), 0)
	longer.WriteAt([]byte("behind the old end"), 6*mib)
	r.g.grow(r.vol, longer)
	next := r.backup()
	if next.Base != first.Backup || next.Read < 64<<10 {
		t.Errorf("%+v", next)
	}
}

// A backup that was interrupted leaves the tracking snapshot alone, and none of
// its own.
func TestInterruptedIncrementKeepsTheBase(t *testing.T) {
	r := newTracker(t, 4*mib)
	first := r.backup()
	r.noise(mib, 300<<10)
	c, cancel := context.WithCancel(ctx)
	_, err := RunRepository(c, r.g, r.options(func(o *RepositoryOptions) {
		o.Progress = func(_ Phase, done, total int64) {
			if total > 0 {
				cancel()
			}
		}
	}))
	if !errors.Is(err, ErrInterrupted) {
		t.Fatal(err)
	}
	r.tracking(first)
	if next := r.backup(); next.Base != first.Backup {
		t.Errorf("%+v", next)
	}
}

// A snapshot that cannot be marked is not left behind unknown.
func TestSnapshotThatCannotBeKept(t *testing.T) {
	r := newTracker(t, 4*mib)
	r.g.retag = func(string) error { return errFake }
	first := r.backup()
	if len(r.g.snapshots()) > 0 || first.SnapshotKept || len(first.Notes) != 1 || !strings.Contains(first.Notes[0], "cannot be kept") {
		t.Errorf("snapshots %q, report %+v", r.g.snapshots(), first)
	}
	r.g.retag = nil
	if next := r.backup(); next.Base != "" || len(next.Notes) != 1 {
		t.Errorf("%+v", next)
	}
}

// Without tracking nothing is left, and nothing is taken away.
func TestNoTrack(t *testing.T) {
	r := newTracker(t, 4*mib)
	noTrack := func(o *RepositoryOptions) { o.NoTrack = true }
	if r.backup(noTrack); len(r.g.snapshots()) > 0 {
		t.Errorf("left %q", r.g.snapshots())
	}
	first := r.backup()
	if first.Base != "" || len(first.Notes) > 0 {
		t.Errorf("%+v", first)
	}
	r.noise(mib, 5000)
	next := r.backup(noTrack)
	if next.Base != first.Backup || next.SnapshotKept {
		t.Errorf("%+v", next)
	}
	r.tracking(first)
	if third := r.backup(); third.Base != first.Backup {
		t.Errorf("%+v", third)
	}
}

// A base that cannot be read: everything is read from the volume, and the
// person hears of the damage.
func TestDamagedBase(t *testing.T) {
	r := newTracker(t, 4*mib)
	r.backup()
	damaged := 0
	err := filepath.WalkDir(r.dir, func(path string, d os.DirEntry, err error) error {
		name, _ := filepath.Rel(r.dir, path)
		if err != nil || d.IsDir() || !strings.HasPrefix(name, "p") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for i := 64; i < len(b)-64; i += 64 {
			b[i] ^= 0x55
		}
		damaged++
		return errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, b, 0o600))
	})
	if err != nil || damaged == 0 {
		t.Fatalf("%d packs of data in %s: %v", damaged, r.dir, err)
	}
	r.repo.Close(ctx)
	r.repo = r.open()
	r.noise(mib, 5000)
	report, err := RunRepository(ctx, r.g, r.options())
	if err != nil {
		t.Fatal(err)
	}
	if report.Base != "" || len(report.Notes) != 1 || !strings.Contains(report.Notes[0], "read as a whole") || !strings.Contains(report.Notes[0], "damaged") {
		t.Errorf("%+v", report)
	}
}

// How fast a tracking snapshot grows is what the configuration says; that it
// never holds up writes is not.
func TestTrackingSnapshotGrowsAsConfigured(t *testing.T) {
	lv := &volume.LV{Tags: trackedTags()}
	configured := volume.Growth{Threshold: 90, Percent: 5, OnFull: volume.OnFullHold}
	want := volume.Growth{Threshold: 90, Percent: 5, OnFull: volume.OnFullInvalidate}
	if got := lv.GrowthOf(configured); got != want {
		t.Errorf("%+v instead of %+v", got, want)
	}
}
