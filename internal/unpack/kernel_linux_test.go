package unpack

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cowl/internal/archive"
	"cowl/internal/block/file"
	"cowl/internal/errs"
	"cowl/internal/fsread"
	"cowl/internal/fsread/fstree"
)

// openTree opens a file system's tree.
func openTree(t *testing.T, image string) archive.Tree {
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
	tree, err := archive.Root(fs)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// nasty returns a file system of what gets lost on the way, and what the kernel
// sees of it.
func nasty(t *testing.T) (image string, want []fstree.Record) {
	t.Helper()
	image = fstree.Image(t, 256<<20, "-t", "ext4", "-b", "4096")
	dir, release := fstree.Mount(t, image, "rw,noatime,user_xattr,acl")
	fstree.Nasty(t, dir, fstree.Scale{Entries: 200, Extents: 300, Sparse: 60 << 20})
	want = fstree.Kernel(t, dir)
	release()
	return image, want
}

// comparable leaves out sockets, and what file systems do in ways of their own.
func comparable(rs []fstree.Record) []fstree.Record {
	var out []fstree.Record
	for _, r := range rs {
		switch r.Mode & unix.S_IFMT {
		case unix.S_IFSOCK:
			continue
		case unix.S_IFDIR:
			r.Size = 0
		}
		r.Xattrs = slices.Sorted(slices.Values(r.Xattrs))
		out = append(out, r)
	}
	return out
}

// except are fields of records that a copy cannot have.
var except = []string{"ino", "blocks", "ctime", "btime", "extents", "flags", "project"}

// What is brought back is what the kernel saw in the file system, to the
// nanosecond and the hole; over itself as well.
func TestAgainstKernel(t *testing.T) {
	image, want := nasty(t)
	to, _ := fstree.Mount(t, fstree.Image(t, 256<<20, "-t", "ext4", "-b", "4096"), "rw,noatime,user_xattr,acl")
	for _, o := range []Options{{}, {Overwrite: true}} {
		r, err := Unpack(t.Context(), openTree(t, image), Place{to, "copy"}, o)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.NotSet) > 0 || r.Failed > 0 || r.Sockets != 1 || r.HardLinks < 3 || r.Devices < 2 {
			t.Errorf("%+v", r)
		}
		got := fstree.Kernel(t, filepath.Join(to, "copy"))
		for _, line := range fstree.Diff(comparable(want), comparable(got), except...) {
			t.Error(line)
		}
		for _, rec := range got {
			if rec.Path == "sparse" && rec.Blocks*512 > rec.Size/2 {
				t.Errorf("the sparse file has %d bytes, and takes %d", rec.Size, rec.Blocks*512)
			}
		}
		noPartials(t, to)
	}
}

// asNobody is set in the environment of the test that runs without root.
const asNobody = "COWL_TEST_UNPACK_TO"

// Without root, what cannot be set is said and nobody gets set-user-ID programs.
func TestWithoutRoot(t *testing.T) {
	if to := os.Getenv(asNobody); to != "" {
		unpackAsNobody(t, os.Getenv("COWL_TEST_IMAGE"), to)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("becomes somebody else, which takes root")
	}
	image, _ := nasty(t)
	to, err := os.MkdirTemp("", "cowl-unpack")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(to)
	reachable := filepath.Join(to, "fs.img")
	self := filepath.Join(to, "test")
	for from, name := range map[string]string{image: reachable, os.Args[0]: self} {
		fstree.Run(t, "cp", "--sparse=always", from, name)
		if err := os.Chmod(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dest := filepath.Join(to, "dest")
	if err := errors.Join(os.Chmod(to, 0o755), os.Mkdir(dest, 0o700), os.Chown(dest, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestWithoutRoot$", "-test.v")
	cmd.Env = append(os.Environ(), asNobody+"="+dest, "COWL_TEST_IMAGE="+reachable, "TMPDIR="+dest)
	cmd.Dir = dest
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("%v\n%s", err, out)
	}
	st, err := os.Stat(filepath.Join(dest, "x", "plain"))
	if err != nil || st.Mode() != 0o751 {
		t.Errorf("a set-user-ID program of root's has the mode %v now (%v)", st.Mode(), err)
	}
}

func unpackAsNobody(t *testing.T, image, to string) {
	var failed []string
	r, err := Unpack(t.Context(), openTree(t, image), Place{to, "x"}, Options{Failed: func(_ string, err error) error {
		failed = append(failed, err.Error())
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range failed {
		if !strings.Contains(text, "only root can make device files") {
			t.Error(text)
		}
	}
	said := map[string]bool{}
	for _, n := range r.NotSet {
		said[n.What] = n.Privilege
	}
	if len(failed) == 0 || r.Files < 30 || !said["owners"] || !said["set-user-ID and set-group-ID bits"] || !said["extended attributes (trusted)"] {
		t.Errorf("%+v, %q", r, failed)
	}
}

// A disk that is full is the end, not a complaint for every file.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts, which takes root")
	}
	to := t.TempDir()
	if err := unix.Mount("none", to, "tmpfs", 0, "size=2m"); err != nil {
		t.Skip(err)
	}
	defer unix.Unmount(to, 0)
	tree := memTree{folder("./"), plain("./a", strings.Repeat("a", 1<<20)), plain("./b", strings.Repeat("b", 2<<20)), plain("./c", "c")}
	told := 0
	r, err := Unpack(t.Context(), tree, Place{to, "x"}, Options{Failed: func(string, error) error { told++; return nil }})
	if !errs.Is(err, errs.NoSpace) || told > 0 || r.Files != 1 || !strings.Contains(err.Error(), "b: ") {
		t.Errorf("%+v, %v, %d told", r, err, told)
	}
	noPartials(t, to)
}
