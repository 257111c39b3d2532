package kernelfs

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cowl/internal/archive"
	"cowl/internal/block/file"
	"cowl/internal/fsread/fstree"
	"cowl/internal/judge"
)

func need(t *testing.T, programs ...string) {
	t.Helper()
	judge.NeedRoot(t)
	judge.NeedLoop(t)
	judge.NeedFile(t, "/dev/fuse")
	judge.Need(t, programs...)
}

// shown mounts the file system in an image through MountDevice.
func shown(t *testing.T, image string) (root string) {
	t.Helper()
	dev, err := file.Open(image, file.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	root, release, err := MountDevice(dev)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := release(); err != nil {
			t.Error(err)
		}
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
		nothingMounted(t)
	})
	return root
}

// nothingMounted checks that no mount of ours is to be seen.
func nothingMounted(t *testing.T) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || bytes.Contains(mounts, []byte("/cowl-mount-")) {
		t.Errorf("something is mounted (%v):\n%s", err, mounts)
	}
}

// What is shown of a device is what is there, also what only the journal knows;
// the device is not written to.
func TestMountDevice(t *testing.T) {
	for _, mkfs := range [][]string{{"mke2fs", "-q", "-t", "ext4"}, {"mkfs.xfs", "-q"}} {
		t.Run(mkfs[0], func(t *testing.T) {
			if known, _ := os.ReadFile("/proc/filesystems"); mkfs[0] == "mkfs.xfs" && !bytes.Contains(known, []byte("\txfs\n")) {
				t.Skip("the running kernel has no XFS")
			}
			need(t, mkfs[0], "tar", "mount")
			image := filepath.Join(t.TempDir(), "fs.img")
			if err := os.WriteFile(image, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(image, 320<<20); err != nil {
				t.Fatal(err)
			}
			fstree.Run(t, append(mkfs, image)...)
			dir, _ := fstree.Mount(t, image, "rw")
			fstree.Nasty(t, dir, fstree.Scale{Entries: 100, Extents: 100, Sparse: 64 << 20})
			fstree.Run(t, "sync", "-f", dir)
			dirty := fstree.Copy(t, image)
			sum := fstree.Sum256(t, dirty)

			tree, closeTree, err := Tree(shown(t, dirty), "/", false)
			if err != nil {
				t.Fatal(err)
			}
			defer closeTree()
			out := filepath.Join(t.TempDir(), "out.tar")
			f, err := os.Create(out)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := archive.Write(context.Background(), f, tree, archive.Options{}); err != nil {
				t.Fatal(err)
			}
			f.Close()
			compare := exec.Command("tar", "--compare", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", dir, "-f", out)
			if text, err := compare.CombinedOutput(); err != nil || len(text) > 0 {
				t.Errorf("tar --compare: %v\n%s", err, text)
			}
			if fstree.Sum256(t, dirty) != sum {
				t.Error("the device was written to")
			}
		})
	}
}

// Links lead to what they mean in the file system, and never out of it.
func TestPlaces(t *testing.T) {
	need(t, "mke2fs")
	from := t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	for _, err := range []error{
		os.WriteFile(secret, []byte("of this machine"), 0o600),
		os.MkdirAll(filepath.Join(from, "d", "e"), 0o755),
		os.WriteFile(filepath.Join(from, "d", "file"), []byte("content"), 0o644),
		os.Symlink("/d", filepath.Join(from, "absolute")),
		os.Symlink("d/file", filepath.Join(from, "to-file")),
		os.Symlink("../../../.."+secret, filepath.Join(from, "out")),
		os.Symlink(secret, filepath.Join(from, "out-too")),
		os.Symlink("loop", filepath.Join(from, "loop")),
		unix.Mkfifo(filepath.Join(from, "fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	root := shown(t, fstree.Image(t, 8<<20, "-t", "ext4", "-d", from))
	for _, c := range []struct{ place, want string }{
		{"/d/file", "content"}, {"d/file", "content"}, {"/absolute/file", "content"}, {"/to-file", "content"}, {"/../d/file", "content"},
		{"/out", "!"}, {"/out-too", "!"}, {"/loop", "!"}, {"/nosuch", "!"}, {"/d", ""}, {"/", ""}, {"/fifo", ""},
	} {
		f, _, err := Open(root, c.place)
		switch {
		case (err != nil) != (c.want == "!"):
			t.Errorf("%s: %v", c.place, err)
		case err != nil:
		case (f == nil) != (c.want == ""):
			t.Errorf("%s: opened %v", c.place, f != nil)
		case f != nil:
			if text, err := io.ReadAll(f); string(text) != c.want || err != nil {
				t.Errorf("%s: %q, %v", c.place, text, err)
			}
			f.Close()
		}
	}
	for place, want := range map[string]string{"/d": "./ ./e/ ./file", "/absolute/e": "./", "/d/file": "./file", "/out": "./out", "/to-file": "./to-file"} {
		tree, closeTree, err := Tree(root, place, true)
		if err != nil {
			t.Errorf("%s: %v", place, err)
			continue
		}
		var names []string
		err = tree.Walk(t.Context(), func(name string, f archive.File, err error) error {
			if f.Header().Mode&archive.ModeType == archive.ModeDir && name != "./" {
				name += "/"
			}
			names = append(names, name)
			return err
		})
		if got := strings.Join(names, " "); err != nil || got != want {
			t.Errorf("%s: %s, want %s (%v)", place, got, want, err)
		}
		closeTree()
	}
	if _, _, err := Tree(root, "/nosuch", true); err == nil {
		t.Error("a tree of nothing")
	}
}

// What is no file system leaves nothing behind.
func TestMountNothing(t *testing.T) {
	need(t)
	image := filepath.Join(t.TempDir(), "noise")
	if err := os.WriteFile(image, bytes.Repeat([]byte("noise..."), 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	dev, err := file.Open(image, file.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if _, _, err := MountDevice(dev); err == nil {
		t.Error("noise was mounted")
	}
	nothingMounted(t)
}
