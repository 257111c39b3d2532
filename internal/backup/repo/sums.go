package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kopia/kopia/repo/blob"

	"cowl/internal/errs"
)

// The blobs with the checksums of other blobs. Their names sort by time. Kopia
// neither reads nor removes blobs whose names begin so.
const (
	sumsPrefix  = "cowl.sums-"
	sumsFormat  = "cowl blob checksums"
	sumsVersion = 1
	// maxSums bounds what is read as one: 6 million blobs of 20 MiB.
	maxSums = 1 << 30
)

// entry is what is known of a blob.
type entry struct {
	Length int64  `json:"length"`
	SHA256 string `json:"sha256"`
}

// ledger gathers the checksums of what was written until they are written
// themselves.
type ledger struct {
	mu  sync.Mutex
	new map[blob.ID]entry // guarded by mu
}

func newLedger() *ledger { return &ledger{new: map[blob.ID]entry{}} }

// put notes down a blob, unless it is one that changes under its name, or one
// of ours, which vouches for itself.
func (l *ledger) put(id blob.ID, e entry) {
	if !isFixed(id) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.new[id] = e
}

func (l *ledger) drop(id blob.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.new, id)
}

// take empties the ledger.
func (l *ledger) take() map[blob.ID]entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.new
	l.new = map[blob.ID]entry{}
	return out
}

// restore puts back what could not be written.
func (l *ledger) restore(m map[blob.ID]entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, e := range m {
		if _, later := l.new[id]; !later {
			l.new[id] = e
		}
	}
}

// scheduleBlob is kopia's maintenance schedule, which every maintenance
// rewrites. It is encrypted as a whole, so that damage shows in reading it.
const scheduleBlob blob.ID = "kopia.maintenance"

// isFixed tells whether a blob stays what it is once it is written. Ours that
// do not are checked by themselves.
func isFixed(id blob.ID) bool { return id != scheduleBlob && !strings.HasPrefix(string(id), "cowl.") }

// sumsFile is a blob of checksums. The text is JSON whose last member,
// "checksum", holds the SHA-256 of every byte before the comma that precedes
// it, as a backup's manifest has.
type sumsFile struct {
	Format  string            `json:"format"`
	Version int               `json:"version"`
	Time    time.Time         `json:"time"`
	Blobs   map[blob.ID]entry `json:"blobs"`
}

// sumsTail is what follows the summed bytes, with the sum for %s.
const sumsTail = ",\"checksum\":\"sha256:%s\"}\n"

var sumsTailLength = len(sumsTail) - len("%s") + 2*sha256.Size

func (f *sumsFile) encode() ([]byte, error) {
	text, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	body := text[:len(text)-1]
	sum := sha256.Sum256(body)
	return append(body, fmt.Sprintf(sumsTail, hex.EncodeToString(sum[:]))...), nil
}

// decodeSums reads what encode wrote. Any byte that differs gives an error of
// kind errs.Corrupt.
func decodeSums(text []byte) (*sumsFile, error) {
	if len(text) < sumsTailLength {
		return nil, errs.E(errs.Corrupt, "%d bytes are too few for checksums", len(text))
	}
	body, tail := text[:len(text)-sumsTailLength], string(text[len(text)-sumsTailLength:])
	sum := sha256.Sum256(body)
	if tail != fmt.Sprintf(sumsTail, hex.EncodeToString(sum[:])) {
		return nil, errs.E(errs.Corrupt, "the checksum does not match")
	}
	f := new(sumsFile)
	if err := json.Unmarshal(text, f); err != nil {
		return nil, errs.E(errs.Corrupt, "not checksums: %w", err)
	}
	switch {
	case f.Format != sumsFormat:
		return nil, errs.E(errs.Corrupt, "format is %q, not %q", f.Format, sumsFormat)
	case f.Version != sumsVersion:
		return nil, errs.E(errs.Unsupported, "version %d, this cowl knows version %d", f.Version, sumsVersion)
	}
	for id, e := range f.Blobs {
		if b, err := hex.DecodeString(e.SHA256); err != nil || len(b) != sha256.Size || e.Length < 0 || id == "" {
			return nil, errs.E(errs.Corrupt, "blob %q has length %d and SHA-256 %q", id, e.Length, e.SHA256)
		}
	}
	return f, nil
}

// flushSums writes what the ledger has gathered.
func (r *Repo) flushSums(ctx context.Context) error {
	m := r.store.sums.take()
	if len(m) == 0 {
		return nil
	}
	err := r.putSums(ctx, m)
	if err != nil {
		r.store.sums.restore(m)
	}
	return err
}

func (r *Repo) putSums(ctx context.Context, m map[blob.ID]entry) error {
	now := time.Now().UTC()
	text, err := (&sumsFile{Format: sumsFormat, Version: sumsVersion, Time: now, Blobs: m}).encode()
	if err != nil {
		return err
	}
	return r.store.PutBlob(ctx, blob.ID(fmt.Sprintf("%s%s-%s", sumsPrefix, now.Format("20060102T150405.000000000"), rand.Text()[:8])),
		plain(text), blob.PutOptions{})
}

// sums are the checksums that a repository has.
type sums struct {
	blobs   map[blob.ID]entry
	files   []blob.ID         // that they were read from, oldest first
	damaged map[blob.ID]error // such files that cannot be used
}

// loadSums reads all checksums. Where several files name a blob the latest
// counts.
func (r *Repo) loadSums(ctx context.Context) (*sums, error) {
	s := &sums{blobs: map[blob.ID]entry{}, damaged: map[blob.ID]error{}}
	err := r.store.ListBlobs(ctx, sumsPrefix, func(m blob.Metadata) error {
		s.files = append(s.files, m.BlobID)
		return nil
	})
	if err != nil {
		return nil, explain(ctx, err)
	}
	slices.Sort(s.files)
	for _, id := range s.files {
		text, err := r.getBlob(ctx, id, maxSums)
		if err != nil {
			return nil, err
		}
		f, err := decodeSums(text)
		if err != nil {
			s.damaged[id] = err
			continue
		}
		maps.Copy(s.blobs, f.Blobs)
	}
	return s, nil
}

// compactSums makes one file of all, without blobs that are no longer there.
func (r *Repo) compactSums(ctx context.Context) error {
	s, err := r.loadSums(ctx)
	if err != nil {
		return err
	}
	present := map[blob.ID]entry{}
	err = r.store.ListBlobs(ctx, "", func(m blob.Metadata) error {
		if e, ok := s.blobs[m.BlobID]; ok {
			present[m.BlobID] = e
		}
		return nil
	})
	if err != nil {
		return explain(ctx, err)
	}
	if len(s.files) < 2 && len(present) == len(s.blobs) {
		return nil
	}
	if err := r.putSums(ctx, present); err != nil {
		return err
	}
	for _, id := range s.files {
		if s.damaged[id] != nil {
			continue // for verify to name, again and again
		}
		if err := r.store.DeleteBlob(ctx, id); err != nil {
			return explain(ctx, err)
		}
	}
	return nil
}

// getBlob reads a small blob whole.
func (r *Repo) getBlob(ctx context.Context, id blob.ID, limit int64) ([]byte, error) {
	out := &limited{limit: limit}
	if err := r.store.GetBlob(ctx, id, 0, -1, out); err != nil {
		return nil, explain(ctx, err)
	}
	return out.Bytes(), nil
}

// limited is a blob.OutputBuffer that does not grow without bound.
type limited struct {
	bytes.Buffer
	limit int64
}

// Write implements io.Writer.
func (l *limited) Write(b []byte) (int, error) {
	if int64(l.Len()+len(b)) > l.limit {
		return 0, errs.E(errs.Corrupt, "blob is larger than %d bytes", l.limit)
	}
	return l.Buffer.Write(b)
}

// Length implements blob.OutputBuffer.
func (l *limited) Length() int { return l.Len() }

// plain is a blob.Bytes of one slice.
type plain []byte

// WriteTo implements io.WriterTo.
func (p plain) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(p)
	return int64(n), err
}

// Length implements blob.Bytes.
func (p plain) Length() int { return len(p) }

// Reader implements blob.Bytes.
func (p plain) Reader() io.ReadSeekCloser { return nopCloser{bytes.NewReader(p)} }

type nopCloser struct{ io.ReadSeeker }

// Close implements io.Closer.
func (nopCloser) Close() error { return nil }
