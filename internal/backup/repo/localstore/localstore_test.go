package localstore

import (
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

	"cowl/internal/backup/repo/storetest"
	"cowl/internal/errs"
)

// What the tests of all stores use.
type (
	text = storetest.Text
	out  = storetest.Out
)

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

var names = storetest.Names

func TestBlobs(t *testing.T) {
	s, _ := made(t)
	storetest.Run(t, s)
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
