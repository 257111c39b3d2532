package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"os/exec"
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
	"cowl/internal/judge"
)

// nasty is a tree that archives get wrong.
func nasty(t testing.TB, dir string) {
	t.Helper()
	fstree.Nasty(t, dir, fstree.Scale{Entries: 200, Extents: 300, Sparse: 60 << 20})
}

// write archives a tree into a file.
func write(t *testing.T, tree Tree) (path string, stats Stats, notes []string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "x.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stats, err = Write(context.Background(), f, tree, Options{Note: func(s string) { notes = append(notes, s) }})
	if err != nil {
		t.Fatal(err)
	}
	return path, stats, notes
}

// judgedByTar has GNU tar compare the archive with the tree that it is of, and
// unpack it, which must give the same tree, holes included.
func judgedByTar(t *testing.T, path, dir string) {
	t.Helper()
	comparedByTar(t, path, dir)
	unpackedByTar(t, path, dir)
}

func comparedByTar(t *testing.T, path, dir string) {
	t.Helper()
	judge.Need(t, "tar")
	compare := exec.Command("tar", "--compare", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", dir, "-f", path)
	if out, err := compare.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("tar --compare: %v\n%.2000s", err, out)
	}
}

// unpackedByTar has GNU tar unpack the archive, which must give the tree, but for
// the fields in except and those of which there is no record.
func unpackedByTar(t *testing.T, path, dir string, except ...string) {
	t.Helper()
	to := t.TempDir()
	unpack := exec.Command("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", to, "-xpf", path)
	except = append(except, "ino", "blocks", "atime", "ctime", "btime", "extents", "flags", "project")
	if os.Geteuid() != 0 {
		unpack.Args = append(unpack.Args, "--no-same-owner")
		except = append(except, "owner")
	}
	if out, err := unpack.CombinedOutput(); err != nil {
		t.Fatalf("tar -x: %v\n%s", err, out)
	}
	want, got := comparable(fstree.Kernel(t, dir)), comparable(fstree.Kernel(t, to))
	for _, line := range fstree.Diff(want, got, except...) {
		t.Error(line)
	}
	sizes := map[string]fstree.Record{}
	for _, r := range got {
		sizes[r.Path] = r
	}
	if r := sizes["sparse"]; r.Blocks*512 > r.Size/2 {
		t.Errorf("the sparse file has %d bytes, and takes %d", r.Size, r.Blocks*512)
	}
}

// comparable leaves out sockets, which no archive has, and what differs from
// one file system to another.
func comparable(rs []fstree.Record) []fstree.Record {
	var out []fstree.Record
	for _, r := range rs {
		switch r.Mode & unix.S_IFMT {
		case unix.S_IFSOCK:
			continue
		case unix.S_IFDIR:
			r.Size = 0
		}
		r.Xattrs = slices.DeleteFunc(slices.Sorted(slices.Values(r.Xattrs)), func(x string) bool {
			return len(x) > 4096 // not where tests unpack
		})
		out = append(out, r)
	}
	return out
}

func TestDirAgainstGNUTar(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	nasty(t, dir)
	path, stats, notes := write(t, Dir{Root: dir})
	if len(notes) != 1 || !strings.Contains(notes[0], "sock") || stats.Skipped != 1 {
		t.Errorf("notes %q, %+v, want one about the socket", notes, stats)
	}
	judgedByTar(t, path, dir)
	if st, err := os.Stat(path); err != nil || st.Size() > 4<<20 {
		t.Errorf("the archive has %d bytes (%v): most of the tree are holes", st.Size(), err)
	}
}

// What is archived without mounting must be what GNU tar finds in the mounted
// file system.
func TestFileSystemAgainstGNUTar(t *testing.T) {
	for name, mke2fs := range map[string]string{
		"ext4":        "-t ext4 -b 4096",
		"ext2":        "-t ext2 -b 1024",
		"inline data": "-t ext4 -b 4096 -O inline_data,ea_inode",
	} {
		if name == "ext2" && !blocktest.Long() {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := fstree.Image(t, 256<<20, strings.Fields(mke2fs)...)
			dir, release := fstree.Mount(t, image, "rw")
			nasty(t, dir)
			release()
			dev, err := file.Open(image, file.Options{ReadOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			fs, err := fsread.Open(context.Background(), dev, fsread.Options{})
			if err != nil {
				t.Fatal(err)
			}
			tree, err := Root(fs)
			if err != nil {
				t.Fatal(err)
			}
			path, _, _ := write(t, tree)
			mounted, _ := fstree.Mount(t, fstree.Copy(t, image), "ro")
			judgedByTar(t, path, mounted)
			byNames(t, path, mounted)
		})
	}
}

// byNames compares what tar lists of both archives, ours and its own.
func byNames(t *testing.T, path, dir string) {
	t.Helper()
	theirs := filepath.Join(t.TempDir(), "gnu.tar")
	fstree.Run(t, "tar", "--format=pax", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--sparse", "-C", dir, "-cf", theirs, ".")
	list := func(archive string) map[string]bool {
		lines := map[string]bool{}
		out := fstree.Run(t, "tar", "--xattrs", "--numeric-owner", "--full-time", "-tvvf", archive)
		for line := range strings.SplitSeq(out, "\n") {
			if !strings.Contains(line, " link to ") { // which name is the first depends on the order
				lines[strings.Join(strings.Fields(line), " ")] = true
			}
		}
		return lines
	}
	ours, want := list(path), list(theirs)
	for line := range want {
		if !ours[line] && !strings.HasSuffix(line, "socket ignored") && !hasLinks(line) {
			t.Errorf("tar lists %q, of ours it does not", line)
		}
	}
	if len(ours) < 70 {
		t.Errorf("only %d lines", len(ours))
	}
}

// hasLinks tells whether a line of tar's is of a file with several names, one
// of which comes first in one archive and another in the other.
func hasLinks(line string) bool {
	for _, name := range []string{"plain", "hard", "good-link", "many/", "fifo"} {
		if strings.Contains(line, name) {
			return true
		}
	}
	return false
}

// A second reader, which is none of ours and none of GNU's.
func TestDirAgainstArchiveTar(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	nasty(t, dir)
	path, _, _ := write(t, Dir{Root: dir})
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found := 0
	for r := tar.NewReader(f); ; found++ {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, h.Name)
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			t.Fatal(err)
		}
		if want := time.Unix(st.Mtim.Unix()); !h.ModTime.Equal(want) {
			t.Errorf("%s: mtime %v, want %v", h.Name, h.ModTime, want)
		}
		if h.Uid != int(st.Uid) || h.Gid != int(st.Gid) || h.Mode != int64(st.Mode&0o7777) {
			t.Errorf("%s: owner %d:%d, mode %o", h.Name, h.Uid, h.Gid, h.Mode)
		}
		if h.Typeflag == tar.TypeReg {
			sameContent(t, h.Name, name, r)
		}
	}
	if found < 250 {
		t.Errorf("only %d entries", found)
	}
}

func sameContent(t *testing.T, name, path string, r io.Reader) {
	t.Helper()
	want, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	a, b := sha256.New(), sha256.New()
	if _, err := io.Copy(a, want); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(b, r); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if !bytes.Equal(a.Sum(nil), b.Sum(nil)) {
		t.Errorf("%s: content differs", name)
	}
}

// What cannot be read must fail the archive: one that lacks a file is not a
// backup. As root, a directory that vanishes stands for it.
func TestDirUnreadable(t *testing.T) {
	if _, err := Write(context.Background(), io.Discard, Dir{Root: filepath.Join(t.TempDir(), "gone")}, Options{}); err == nil {
		t.Error("an archive of nothing was made")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(ctx, io.Discard, Dir{Root: dir}, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A list of data that would be too long covers all data with fewer spans.
func TestDataSpansAreBounded(t *testing.T) {
	const extents, stride, limit = 300, 64 << 10, 16
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range int64(extents) {
		if _, err := f.WriteAt([]byte("data"), i*stride*(1+i%3)); err != nil {
			t.Fatal(err)
		}
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	all, err := dataSpans(f, st.Size(), maxSpans)
	if err != nil {
		t.Fatal(err)
	}
	few, err := dataSpans(f, st.Size(), limit)
	if err != nil || len(few) == 0 || len(few) > limit {
		t.Fatalf("%d spans, %v", len(few), err)
	}
	for _, s := range all {
		if !slices.ContainsFunc(few, func(f Span) bool { return f.Off <= s.Off && s.Off+s.Len <= f.Off+f.Len }) {
			t.Errorf("%v is in none of %v", s, few)
		}
	}
	for i, s := range few {
		if i > 0 && s.Off <= few[i-1].Off+few[i-1].Len || s.Off+s.Len > st.Size() {
			t.Errorf("span %d of %v", i, few)
		}
	}
}
