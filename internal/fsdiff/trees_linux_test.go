package fsdiff

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cowl/internal/archive"
	"cowl/internal/fsread/fstree"
)

// packedTree is a directory as an archive that is open.
func packedTree(t *testing.T, dir string, c archive.Compression) archive.Tree {
	t.Helper()
	var b bytes.Buffer
	w, err := c.Pack(&b)
	if err == nil {
		_, err = archive.Write(context.Background(), w, archive.Dir{Root: dir}, archive.Options{})
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	a, err := archive.Open(context.Background(), bytes.NewReader(b.Bytes()), int64(b.Len()), archive.OpenOptions{Sums: c != archive.None})
	if err != nil || a.Err() != nil {
		t.Fatal(err, a.Err())
	}
	t.Cleanup(func() { a.Close() })
	return archive.Members{Archive: a, ByName: true}
}

// treeLines are the changes as "kind path what".
func treeLines(t *testing.T, a, b archive.Tree) (out []string) {
	t.Helper()
	err := Trees(context.Background(), a, b, Options{}, func(c *Change) error {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s", c.Kind.Letter(), c.Path, strings.Join(c.What, ","))))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Archives, compressed or not, and directories are compared in any pair: nothing
// differs in the same tree, however odd, and of what was changed nothing is missed.
func TestTrees(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	fstree.Nasty(t, dir, fstree.Scale{Entries: 200, Extents: 300, Sparse: 60 << 20})
	before := map[string]archive.Tree{"plain": packedTree(t, dir, archive.None), "zstd": packedTree(t, dir, archive.Zstd), "gzip": packedTree(t, dir, archive.Gzip)}
	for name, a := range before {
		if got := treeLines(t, a, archive.Dir{Root: dir}); len(got) > 0 {
			t.Errorf("%s and the directory it is of: %q", name, got)
		}
		if got := treeLines(t, before["plain"], a); len(got) > 0 {
			t.Errorf("plain and %s: %q", name, got)
		}
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	change := func(errs ...error) {
		t.Helper()
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	sparse, err := os.OpenFile(in("sparse"), os.O_WRONLY, 0)
	change(err)
	_, err = sparse.WriteAt([]byte{1}, 59<<20)
	change(err, sparse.Close())
	change(os.WriteFile(in("size-1025"), make([]byte, 1025), 0o600), os.Chmod(in("size-100"), 0o400), os.Chtimes(in("size-155"), time.Now(), time.Now()),
		os.Remove(in("link-120")), os.Symlink("elsewhere", in("link-120")), os.Remove(in("size-60")), os.Mkdir(in("size-60"), 0o755), os.WriteFile(in("size-60/new"), nil, 0o644),
		os.RemoveAll(in("sticky")), os.Rename(in("size-59"), in("size-59 moved")), os.WriteFile(in("d!"), []byte("x"), 0o644))
	want := []string{"+ /d!", "M /link-120 target", "m /size-100 mode", "M /size-1025 content", "m /size-155 time", "- /size-59", "+ /size-59 moved",
		"T /size-60 type", "+ /size-60/new", "M /sparse content", "- /sticky"}
	after := map[string]archive.Tree{"directory": archive.Dir{Root: dir}, "plain": packedTree(t, dir, archive.None), "zstd": packedTree(t, dir, archive.Zstd)}
	for x, a := range before {
		for y, b := range after {
			got := treeLines(t, a, b)
			for i, line := range got { // the new file has other rights, which come second
				got[i] = strings.Replace(strings.Replace(line, "content,mode", "content", 1), ",owner", "", 1)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s to %s:\n%s\nwant\n%s", x, y, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
	}
}

// The order of paths is that of a walk by name, in which what is in a directory comes
// before a sibling whose name goes on where the directory's ends.
func TestByPath(t *testing.T) {
	want := []string{"", "a", "a/b", "a/b/c", "a/b!", "a!", "a!/x", "a-", "ab", "b", "\xff"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, byPath)
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for i, a := range want {
		for j, b := range want {
			if got := byPath(a, b); got != cmp.Compare(i, j) {
				t.Errorf("%q and %q: %d", a, b, got)
			}
		}
	}
}
