package repo

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cowl/internal/block/blocktest"
	"cowl/internal/errs"
)

// Any byte of any file of the target that changes is found, and the file
// named; where it holds part of an image, so is the backup, and what of it.
func TestFlippedBytes(t *testing.T) {
	dir := t.TempDir()
	r := made(t, dir)
	dev := volume(t, 3*mib)
	b := stored(t, r, Source{Dev: dev}, File{"vg.conf", []byte("vg {}\n")})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	flips, packs := 0, 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		good, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		n := 1
		if blocktest.Long() {
			n = 40
		}
		offs := []int{len(good) / 2, len(good) - 1}
		for range n {
			offs = append(offs, rng.IntN(len(good)))
		}
		for _, off := range offs {
			bad := slices.Clone(good)
			bad[off] ^= 1 << rng.IntN(8)
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				return err
			}
			packs += checkFound(t, r, dir, b, path, off)
			flips++
		}
		return os.WriteFile(path, good, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	if packs == 0 {
		t.Error("no flip was in a pack of the image")
	}
	t.Logf("%d flips, %d of them in packs of an image", flips, packs)
	if v, err := opened(t, dir).Verify(ctx, VerifyOptions{}); err != nil {
		t.Errorf("the flips undone: %v %+v", err, v)
	}
}

// checkFound verifies a repository in which a byte of a file is not what it
// was. r is one that was opened before. It returns 1 if the file holds part
// of an image.
func checkFound(t *testing.T, r *Repo, dir string, b *Backup, path string, off int) (pack int) {
	t.Helper()
	name := strings.TrimSuffix(blobOf(dir, path), ".f")
	data := strings.HasPrefix(name, "p") || strings.HasPrefix(name, "cowl.")
	v, err := verifyAnew(t, r, dir, !data)
	switch {
	case err == nil:
		t.Errorf("byte %d of %s: not found", off, name)
	case !errs.Is(err, errs.Corrupt):
		t.Errorf("byte %d of %s: %v", off, name, err)
	case name == ".shards": // no blob
		if !strings.Contains(err.Error(), name) {
			t.Errorf("byte %d of %s: not named: %v", off, name, err)
		}
	case !slices.ContainsFunc(v.Damage, func(d BlobDamage) bool { return d.Blob == name }):
		t.Errorf("byte %d of %s: not named: %+v", off, name, v.Damage)
	}
	if err == nil || !strings.HasPrefix(name, "p") {
		return 0
	}
	for _, verdict := range v.Backups {
		if verdict.Backup.ID == b.ID && !verdict.Good {
			return 1
		}
	}
	// Nothing of the backup stood there: padding, or kopia's own copy of the
	// index. A restore would say the same.
	if _, err := r.VerifyBackup(ctx, b, VerifyOptions{}); err != nil {
		t.Errorf("byte %d of %s: the backup is called good, and cannot be read: %v", off, name, err)
	}
	return 0
}

// verifyAnew verifies the repository, opened anew if told to. What cannot be
// opened is verified as a store.
func verifyAnew(t *testing.T, r *Repo, dir string, anew bool) (*Verification, error) {
	t.Helper()
	if !anew {
		return r.Verify(ctx, VerifyOptions{})
	}
	s := local(t, dir, false)
	r, err := Open(ctx, s, password, Options{})
	if err != nil {
		return VerifyStore(ctx, s, VerifyOptions{})
	}
	defer r.Close(ctx)
	return r.Verify(ctx, VerifyOptions{})
}

// blobOf is the blob that a file holds: directories are the beginning of its
// name.
func blobOf(dir, path string) string {
	rel, err := filepath.Rel(dir, path)
	if err != nil {
		return path
	}
	return strings.ReplaceAll(filepath.ToSlash(rel), "/", "")
}

// A file that is gone, and one that is shorter.
func TestMissing(t *testing.T) {
	dir := t.TempDir()
	r := made(t, dir)
	b := stored(t, r, Source{Dev: volume(t, 3*mib)})
	found, err := filepath.Glob(dir + "/p/*/*.f")
	if err != nil || len(found) == 0 {
		t.Fatal(found, err)
	}
	slices.SortFunc(found, func(a, b string) int { return int(sizeOf(t, b) - sizeOf(t, a)) }) // the image's before the record's
	good, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	for what, do := range map[string]func() error{
		"missing": func() error { return os.Remove(found[0]) },
		"bytes":   func() error { return os.WriteFile(found[0], good[:len(good)/2], 0o600) },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
		v, err := opened(t, dir).Verify(ctx, VerifyOptions{})
		if !errs.Is(err, errs.Corrupt) || v == nil || len(v.Damage) != 1 || !strings.Contains(v.Damage[0].Cause, what) || v.Backups[0].Good || len(v.Backups[0].Damage) == 0 {
			t.Errorf("%s: %v %+v", what, err, v)
		}
		if verdict, err := opened(t, dir).VerifyBackup(ctx, b, VerifyOptions{}); !errs.Is(err, errs.Corrupt) || verdict == nil || verdict.Good {
			t.Errorf("%s, read as a restore does: %v %+v", what, err, verdict)
		}
	}
}

func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}

// An interrupted verification is gone on with, and one that found all good
// begins anew the next time.
func TestVerifyResumes(t *testing.T) {
	r, _ := inMemory(t)
	for i := range 4 {
		dev := volume(t, mib)
		write(t, dev, nil, Layout{}, 1000, noise(byte(40+i), 50<<10))
		stored(t, r, Source{Dev: dev})
	}
	state := filepath.Join(t.TempDir(), "state")
	c, cancel := context.WithCancel(ctx)
	_, err := r.Verify(c, VerifyOptions{State: state, Progress: func(done, total int64) {
		if done > total/2 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	v, err := r.Verify(ctx, VerifyOptions{State: state})
	if err != nil || v.BlobsBefore == 0 || v.BlobsRead == 0 {
		t.Errorf("%+v, %v", v, err)
	}
	v, err = r.Verify(ctx, VerifyOptions{State: state})
	if err != nil || v.BlobsBefore != 0 {
		t.Errorf("again: %+v, %v", v, err)
	}
}

func TestVerifySample(t *testing.T) {
	r, _ := inMemory(t)
	b := stored(t, r, Source{Dev: volume(t, 3*mib)})
	v, err := r.Verify(ctx, VerifyOptions{Sample: 1e-9})
	if err != nil || v.BlobsRead >= v.Blobs {
		t.Errorf("%+v, %v", v, err)
	}
	var read int64
	if _, err := r.VerifyBackup(ctx, b, VerifyOptions{Sample: 1e-9, Progress: func(done, _ int64) { read = done }}); err != nil || read > 0 {
		t.Errorf("read %d, %v", read, err)
	}
}
