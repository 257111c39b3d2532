package localstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/blob/filesystem"

	"cowl/internal/errs"
)

// text is a blob.Bytes.
type text string

func (s text) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, string(s))
	return int64(n), err
}
func (s text) Length() int               { return len(s) }
func (s text) Reader() io.ReadSeekCloser { return closer{strings.NewReader(string(s))} }

type closer struct{ io.ReadSeeker }

func (closer) Close() error { return nil }

// out is a blob.OutputBuffer.
type out struct{ bytes.Buffer }

func (o *out) Length() int { return o.Len() }

var ctx = context.Background()

func made(t *testing.T) (blob.Storage, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	s, err := New(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

// long names are spread over directories, short ones are not.
var names = []blob.ID{"kopia.repository", "p0123456789abcdef0123456789abcdef-s01", "q0123456789abcdef0123456789abcdef-s01", "cowl.lock-abcdefghijklmnop"}

func TestBlobs(t *testing.T) {
	s, _ := made(t)
	for _, id := range names {
		for _, content := range []string{"first", "and again, longer"} {
			if err := s.PutBlob(ctx, id, text(content), blob.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			var o out
			if err := s.GetBlob(ctx, id, 0, -1, &o); err != nil || o.String() != content {
				t.Errorf("%s: %q, %v", id, o.String(), err)
			}
		}
		var o out
		if err := s.GetBlob(ctx, id, 4, 5, &o); err != nil || o.String() != "again" {
			t.Errorf("%s: a part: %q, %v", id, o.String(), err)
		}
		if err := s.GetBlob(ctx, id, 10, 100, &o); !errors.Is(err, blob.ErrInvalidRange) {
			t.Errorf("%s: too long a part: %v", id, err)
		}
		if m, err := s.GetMetadata(ctx, id); err != nil || m.Length != 17 || m.BlobID != id {
			t.Errorf("%s: %+v, %v", id, m, err)
		}
	}
	all, err := blob.ListAllBlobs(ctx, s, "")
	if err != nil || len(all) != len(names) {
		t.Errorf("%+v, %v", all, err)
	}
	for _, id := range names {
		for range 2 { // also when it is gone
			if err := s.DeleteBlob(ctx, id); err != nil {
				t.Error(err)
			}
		}
		var o out
		if err := s.GetBlob(ctx, id, 0, -1, &o); !errors.Is(err, blob.ErrBlobNotFound) {
			t.Error(err)
		}
	}
}

// kopia's own driver and ours find each other's blobs.
func TestKopiasLayout(t *testing.T) {
	ours, dir := made(t)
	if err := ours.PutBlob(ctx, names[1], text("ours"), blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	theirs, err := filesystem.New(ctx, &filesystem.Options{Path: dir}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := theirs.PutBlob(ctx, names[2], text("theirs"), blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[blob.ID]string{names[1]: "ours", names[2]: "theirs"} {
		for _, s := range []blob.Storage{ours, theirs} {
			var o out
			if err := s.GetBlob(ctx, id, 0, -1, &o); err != nil || o.String() != want {
				t.Errorf("%s: %q, %v", id, o.String(), err)
			}
		}
	}
}

// broken is a blob that fails half way, as a full disk makes it.
type broken struct{ text }

func (b broken) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, "ha")
	return int64(n), errors.Join(err, errors.New("broken off"))
}

// What could not be written whole is not there, and what was there stays.
func TestPutFails(t *testing.T) {
	s, dir := made(t)
	if err := s.PutBlob(ctx, names[0], text("good"), blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.PutBlob(ctx, names[0], broken{}, blob.PutOptions{}); err == nil {
		t.Error("no error")
	}
	var o out
	if err := s.GetBlob(ctx, names[0], 0, -1, &o); err != nil || o.String() != "good" {
		t.Errorf("%q, %v", o.String(), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.Contains(e.Name(), ".tmp.") }) {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestNew(t *testing.T) {
	dir := t.TempDir()
	if _, err := New(filepath.Join(dir, "none"), false); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
	if _, err := New(filepath.Join(dir, "no", "parent"), true); !errs.Is(err, errs.NotFound) || errs.HintOf(err) == "" {
		t.Error(err)
	}
	if _, err := New(dir, false); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(path, true); !errs.Is(err, errs.Usage) {
		t.Error(err)
	}
}
