// Package storetest is what every place for a repository's blobs must do,
// as a test.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/kopia/kopia/repo/blob"
)

// Text is a blob.Bytes.
type Text string

// WriteTo implements io.WriterTo.
func (s Text) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, string(s))
	return int64(n), err
}

// Length implements blob.Bytes.
func (s Text) Length() int { return len(s) }

// Reader implements blob.Bytes.
func (s Text) Reader() io.ReadSeekCloser { return closer{bytes.NewReader([]byte(s))} }

type closer struct{ io.ReadSeeker }

func (closer) Close() error { return nil }

// Out is a blob.OutputBuffer.
type Out struct{ bytes.Buffer }

// Length implements blob.OutputBuffer.
func (o *Out) Length() int { return o.Len() }

// Names are some that kopia and cowl use. Where blobs are spread over
// directories, long ones are and short ones are not.
var Names = []blob.ID{"kopia.repository", "p0123456789abcdef0123456789abcdef-s01", "q0123456789abcdef0123456789abcdef-s01", "cowl.lock-abcdefghijklmnop"}

// Run tests a store that is empty.
func Run(t *testing.T, s blob.Storage) {
	ctx := t.Context()
	var o Out
	for _, id := range Names {
		if err := s.GetBlob(ctx, id, 0, -1, &o); !errors.Is(err, blob.ErrBlobNotFound) {
			t.Errorf("%s, which is not there: %v", id, err)
		}
		if _, err := s.GetMetadata(ctx, id); !errors.Is(err, blob.ErrBlobNotFound) {
			t.Errorf("%s, which is not there: %v", id, err)
		}
		if err := s.DeleteBlob(ctx, id); err != nil {
			t.Errorf("%s, which is not there, is deleted: %v", id, err)
		}
		for _, content := range []string{"first", "and again, longer"} {
			var at time.Time
			if err := s.PutBlob(ctx, id, Text(content), blob.PutOptions{GetModTime: &at}); err != nil {
				t.Fatal(err)
			}
			if time.Since(at).Abs() > time.Hour {
				t.Errorf("%s was put at %v", id, at)
			}
			if err := s.GetBlob(ctx, id, 0, -1, &o); err != nil || o.String() != content {
				t.Errorf("%s: %q, %v", id, o.String(), err)
			}
		}
		part(t, s, id, 4, 5, "again")
		for _, bad := range [][2]int64{{10, 100}, {17, 1}, {1000, 5}} {
			if err := s.GetBlob(ctx, id, bad[0], bad[1], &o); !errors.Is(err, blob.ErrInvalidRange) {
				t.Errorf("%s: %d bytes at %d: %v", id, bad[1], bad[0], err)
			}
		}
		if m, err := s.GetMetadata(ctx, id); err != nil || m.Length != 17 || m.BlobID != id {
			t.Errorf("%s: %+v, %v", id, m, err)
		}
	}
	listed(t, s, "", len(Names))
	listed(t, s, "cowl.", 1)
	if err := s.DeleteBlob(ctx, Names[1]); err != nil {
		t.Error(err)
	}
	listed(t, s, "", len(Names)-1)
	large(t, s)
	stop, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.PutBlob(stop, "pcancelled", Text("x"), blob.PutOptions{}); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// part reads a part of a blob.
func part(t *testing.T, s blob.Storage, id blob.ID, off, length int64, want string) {
	t.Helper()
	var o Out
	if err := s.GetBlob(t.Context(), id, off, length, &o); err != nil || o.String() != want {
		t.Errorf("%s: %d bytes at %d: %d bytes, %v", id, length, off, o.Len(), err)
	}
}

func listed(t *testing.T, s blob.Storage, prefix blob.ID, n int) {
	t.Helper()
	all, err := blob.ListAllBlobs(t.Context(), s, prefix)
	if err != nil || len(all) != n {
		t.Errorf("%q: %+v, %v", prefix, all, err)
	}
}

// large puts packs, several at once, and reads them.
func large(t *testing.T, s blob.Storage) {
	b := make([]byte, 6<<20+77)
	rand.NewChaCha8([32]byte{1}).Read(b)
	ids := []blob.ID{"p00000000000000000000000000000000-s1", "p00000000000000000000000000000001-s1", "p10000000000000000000000000000000-s1"}
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() {
			want := string(b[i*1001:])
			if err := s.PutBlob(t.Context(), id, Text(want), blob.PutOptions{}); err != nil {
				t.Error(err)
				return
			}
			part(t, s, id, 0, -1, want)
			part(t, s, id, 3<<20-5, 2<<20+3, want[3<<20-5:][:2<<20+3])
		})
	}
	wg.Wait()
}
