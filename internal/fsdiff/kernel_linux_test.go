package fsdiff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cowl/internal/block/blocktest"
	"cowl/internal/block/file"
	"cowl/internal/fsread"
	"cowl/internal/fsread/fstree"
)

// openFS opens an image's file system until the test ends.
func openFS(t *testing.T, image string) *fsread.FS {
	t.Helper()
	dev, err := file.Open(image, file.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	fs, err := fsread.Open(context.Background(), dev, fsread.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// differing compares two images, in chunks as a snapshot store has them.
func differing(t *testing.T, a, b string) fsread.Ranges {
	t.Helper()
	const chunk = 4096
	fa, errA := os.Open(a)
	fb, errB := os.Open(b)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	defer fa.Close()
	defer fb.Close()
	out := fsread.Ranges{}
	x, y := make([]byte, chunk), make([]byte, chunk)
	for off := int64(0); ; off += chunk {
		_, errA := io.ReadFull(fa, x)
		_, errB := io.ReadFull(fb, y)
		if errA != nil || errB != nil {
			return out
		}
		if bytes.Equal(x, y) {
			continue
		}
		if n := len(out); n > 0 && out[n-1].Off+out[n-1].Len == off {
			out[n-1].Len += chunk
		} else {
			out = append(out, fsread.Range{Off: off, Len: chunk})
		}
	}
}

// expected is what two views of the kernel's say has changed, found in the
// simplest way: by path, names that are on one side only paired by their inode.
func expected(a, b []fstree.Record, kin bool) []string {
	sideA, sideB := map[string]fstree.Record{}, map[string]fstree.Record{}
	inoA, inoB := map[uint64]fstree.Record{}, map[uint64]fstree.Record{}
	for _, r := range a {
		sideA[r.Path], inoA[r.Ino] = r, r
	}
	for _, r := range b {
		sideB[r.Path], inoB[r.Ino] = r, r
	}
	// A name is what it was where its file was made at the same time.
	alive := func(r fstree.Record, other map[uint64]fstree.Record) bool {
		o, ok := other[r.Ino]
		return kin && ok && o.Btime == r.Btime
	}
	var out []string
	gone, come := map[uint64][]string{}, map[uint64][]string{}
	for _, r := range a {
		o, ok := sideB[r.Path]
		switch {
		case !ok && alive(r, inoB):
			gone[r.Ino] = append(gone[r.Ino], r.Path)
		case !ok:
			out = append(out, "removed /"+r.Path)
		case r.Mode&unix.S_IFMT != o.Mode&unix.S_IFMT:
			out = append(out, "replaced /"+r.Path)
		default:
			if what := recordDiff(r, o); what != "" {
				out = append(out, what+" /"+r.Path)
			}
		}
	}
	for _, r := range b {
		if _, ok := sideA[r.Path]; !ok {
			if alive(r, inoA) {
				come[r.Ino] = append(come[r.Ino], r.Path)
			} else {
				out = append(out, "added /"+r.Path)
			}
		}
	}
	for ino, names := range come {
		for i, name := range names {
			if i < len(gone[ino]) {
				out = append(out, "renamed /"+name)
			} else {
				out = append(out, "added /"+name)
			}
		}
	}
	for ino, names := range gone {
		for _, name := range names[min(len(come[ino]), len(names)):] {
			out = append(out, "removed /"+name)
		}
	}
	slices.Sort(out)
	return out
}

func recordDiff(a, b fstree.Record) string {
	slices.Sort(a.Xattrs)
	slices.Sort(b.Xattrs)
	switch isDir := a.Mode&unix.S_IFMT == unix.S_IFDIR; {
	case a.Sum != b.Sum || a.Link != b.Link || a.Major != b.Major || a.Minor != b.Minor || !isDir && a.Size != b.Size:
		return "changed"
	case a.Mode != b.Mode, a.UID != b.UID, a.GID != b.GID, !slices.Equal(a.Xattrs, b.Xattrs), !isDir && a.Mtime != b.Mtime, a.Project != b.Project:
		return "metadata"
	}
	return ""
}

// found runs Diff and returns what it reports, in the form of expected.
func found(t *testing.T, a, b *fsread.FS, o Options) (out []string) {
	t.Helper()
	err := Diff(t.Context(), a, b, "/", "/", o, func(c *Change) error {
		out = append(out, string(c.Kind)+" "+c.Path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// change does random things to a tree.
func change(t *testing.T, dir string, random *rand.Rand, n int) {
	t.Helper()
	var files, dirs []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Name() != "lost+found" {
			if d.IsDir() {
				dirs = append(dirs, path)
			} else {
				files = append(files, path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	pick := func(from []string) string { return from[random.IntN(len(from))] }
	for i := range n {
		f, to := pick(files), filepath.Join(pick(dirs), fmt.Sprintf("new-%d", i))
		var err error
		switch random.IntN(10) {
		case 0:
			err = os.Remove(f)
		case 1:
			err = os.Rename(f, to)
		case 2:
			err = os.WriteFile(to, bytes.Repeat([]byte{byte(i)}, random.IntN(20000)), 0o644)
		case 3:
			err = os.Link(f, to)
		case 4:
			err = os.Lchown(f, i+1, i+1)
		case 5:
			err = unix.Lsetxattr(f, "trusted.x", []byte(fmt.Sprint(i)), 0)
		case 6: // the time as it was, as some programs do
			err = overwrite(f, random)
		case 7:
			err = os.Rename(f, pick(files)) // over another
		case 8:
			err = errors.Join(os.Remove(f), os.Mkdir(f, 0o755))
		case 9:
			err = os.Symlink(fmt.Sprint("target-", i), to)
		}
		_ = err // of what is no longer there
	}
}

func overwrite(path string, random *rand.Rand) error {
	st, err := os.Lstat(path)
	if err != nil || !st.Mode().IsRegular() || st.Size() == 0 {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte{byte(random.Uint32())}, random.Int64N(st.Size()))
	return errors.Join(err, os.Chtimes(path, time.Time{}, st.ModTime()))
}

// Two states of a file system that the kernel wrote differ in what the kernel
// shows of them, whether it is known where to look or not.
func TestAgainstKernel(t *testing.T) {
	rounds := 2
	if blocktest.Long() {
		rounds = 20
	}
	for name, mke2fs := range map[string]string{"ext4": "-t ext4 -b 4096", "1k inline": "-t ext4 -b 1024 -O inline_data", "ext3": "-t ext3 -b 1024"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seed := blocktest.Seed(t)
			random := rand.New(rand.NewPCG(seed, 7))
			image := fstree.Image(t, 256<<20, strings.Fields(mke2fs)...)
			dir, release := fstree.Mount(t, image, "rw,noatime")
			fstree.Nasty(t, dir, fstree.Scale{Entries: 400, Extents: 300, Sparse: 60 << 20})
			release()
			for range rounds {
				round(t, image, random)
			}
		})
	}
}

func round(t *testing.T, image string, random *rand.Rand) {
	t.Helper()
	before := fstree.Copy(t, image)
	dir, release := fstree.Mount(t, image, "rw,noatime")
	want := [2][]fstree.Record{fstree.Kernel(t, dir)}
	change(t, dir, random, 60)
	unix.Sync()
	want[1] = fstree.Kernel(t, dir)
	if random.IntN(2) == 0 {
		release() // else the journal is not empty
	}
	after := fstree.Copy(t, image)
	release()
	a, b := openFS(t, before), openFS(t, after)
	ranges := differing(t, before, after)
	for name, o := range map[string]Options{"ranges known": {Changed: ranges}, "unknown": {}} {
		got := found(t, a, b, o)
		if g, e := strings.Join(got, "\n"), strings.Join(expected(want[0], want[1], true), "\n"); g != e {
			t.Errorf("%s: got\n%s\nwant\n%s", name, g, e)
		}
		t.Logf("%s: %d changes, journal %+v", name, len(got), b.Info().Replay)
	}
}

// A directory that was renamed is one change, and what has changed in it is
// found below its new name. What was put into a new directory is renamed.
func TestMovedDirectories(t *testing.T) {
	image := fstree.Image(t, 64<<20, "-t", "ext4")
	dir, release := fstree.Mount(t, image, "rw")
	path := func(name string) string { return filepath.Join(dir, name) }
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(path("a/deep/deeper"), 0o755), os.WriteFile(path("a/deep/deeper/same"), []byte("same"), 0o644),
		os.WriteFile(path("a/deep/deeper/changes"), []byte("old"), 0o644), os.WriteFile(path("a/moves"), []byte("x"), 0o644),
		os.WriteFile(path("a/goes"), nil, 0o644), os.Mkdir(path("gone"), 0o755), os.WriteFile(path("gone/file"), nil, 0o644))
	release()
	before := fstree.Copy(t, image)
	dir, release = fstree.Mount(t, image, "rw")
	must(os.Rename(path("a"), path("b")), os.WriteFile(path("b/deep/deeper/changes"), []byte("new"), 0o644),
		os.MkdirAll(path("fresh/dir"), 0o755), os.Rename(path("b/moves"), path("fresh/dir/moves")), os.Remove(path("b/goes")),
		os.RemoveAll(path("gone")), os.Rename(path("b/deep/deeper"), path("fresh/deeper")), os.Link(path("fresh/deeper/same"), path("link")))
	release()
	a, b := openFS(t, before), openFS(t, image)
	want := "added /fresh, added /fresh/dir, added /link, changed /fresh/deeper/changes, removed /b/goes, removed /gone, removed /gone/file, " +
		"renamed /b, renamed /fresh/deeper, renamed /fresh/dir/moves"
	for name, o := range map[string]Options{"ranges known": {Changed: differing(t, before, image)}, "unknown": {}, "quick": {Quick: true}} {
		if got := strings.Join(found(t, a, b, o), ", "); got != want {
			t.Errorf("%s: %s\nwant %s", name, got, want)
		}
	}
}
