package backup

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cowl/internal/block/file"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/fsread/fstree"
	"cowl/internal/judge"
	"cowl/internal/volume"
)

const fsBytes = 96 * mib

// mounted makes a file system in a file, mounts it and fills it.
func mounted(t *testing.T, mkfs ...string) (image, dir string) {
	t.Helper()
	judge.NeedLoop(t)
	judge.Need(t, mkfs[0], "mount", "umount", "tar")
	image = filepath.Join(t.TempDir(), "fs.img")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 4*fsBytes); err != nil {
		t.Fatal(err)
	}
	fstree.Run(t, append(mkfs, image)...)
	dir, _ = fstree.Mount(t, image, "rw")
	fstree.Nasty(t, dir, fstree.Scale{Entries: 200, Extents: 200, Sparse: 128 << 20})
	return image, dir
}

// frozen copies the image as a snapshot would show it: at one instant, the
// file system mounted and its journal not yet replayed.
func frozen(t *testing.T, image, dir string) string {
	t.Helper()
	fstree.Run(t, "sync", "-f", dir)
	return fstree.Copy(t, image)
}

// fileGroup has a volume "v" that is the image, and snapshots that are made
// by copying it.
func fileGroup(t *testing.T, image string, copied func() string) *fakeGroup {
	t.Helper()
	g := newGroup(t)
	dev, err := file.Open(image, file.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	g.add("v", dev).file = image
	g.snapFile = func(string) string { return copied() }
	return g
}

// The archive of a file system in use equals the mounted original.
func TestTarOfMountedExt4(t *testing.T) {
	image, dir := mounted(t, "mke2fs", "-q", "-t", "ext4")
	g := fileGroup(t, image, func() string { return frozen(t, image, dir) })
	checkTar(t, g, dir)
}

func TestTarOfMountedXFS(t *testing.T) {
	if judge.Find("mkfs.xfs") == "" {
		t.Skip("mkfs.xfs is not installed")
	}
	if text, _ := os.ReadFile("/proc/filesystems"); !bytes.Contains(text, []byte("\txfs\n")) {
		t.Skip("the running kernel has no XFS")
	}
	image, dir := mounted(t, "mkfs.xfs", "-q")
	g := fileGroup(t, image, func() string { return frozen(t, image, dir) })
	checkTar(t, g, dir)
}

func checkTar(t *testing.T, g *fakeGroup, dir string) {
	t.Helper()
	to := t.TempDir()
	r, err := Run(ctx, g, Options{LV: "v", Dir: to, Format: Tar, Tool: "test"})
	if err != nil {
		t.Fatal(err)
	}
	compareTar(t, r.Image, dir)
	if v, err := Verify(ctx, r.Image, Reporter{}); err != nil || v.Manifest.Image.Format != Tar {
		t.Errorf("verify: %+v, %v", v, err)
	}
	if r.Files < 20 || !r.Verified || len(g.snapshots()) > 0 {
		t.Errorf("report %+v, snapshots %q", r, g.snapshots())
	}
	noLoopOver(t, r.Snapshot)
}

// compareTar has GNU tar compare an archive with a tree. What it unpacks is
// compared in package archive.
func compareTar(t *testing.T, image, dir string) {
	t.Helper()
	compare := exec.Command("tar", "--compare", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", dir, "-f", image)
	if out, err := compare.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("tar --compare: %v\n%s", err, out)
	}
}

// noLoopOver waits until no loop device has a file called snapshot.
func noLoopOver(t *testing.T, name string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := ""
		paths, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
		for _, p := range paths {
			if b, _ := os.ReadFile(p); strings.HasPrefix(filepath.Base(string(b)), "snapshot") && strings.Contains(string(b), t.Name()) {
				left = p
			}
		}
		if left == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s is still there", name, left)
		}
	}
}

// A snapshot that is read-only, with a journal that has to be replayed, and
// that no kernel could mount: its files are read all the same.
func TestTarOfReadOnlySnapshot(t *testing.T) {
	image, dir := mounted(t, "mke2fs", "-q", "-t", "ext4")
	g := fileGroup(t, image, func() string { return frozen(t, image, dir) })
	g.snapshot(volume.SnapshotSpec{Origin: "v", Name: "ro", ReadOnly: true})
	g.vols["ro"].file, g.vols["v"].file = "", ""
	r, err := Run(ctx, g, Options{LV: "ro", Dir: t.TempDir(), Format: Tar})
	if err != nil {
		t.Fatal(err)
	}
	compareTar(t, r.Image, dir)
}

// What the reader refuses by name is mounted, if it can be.
func TestTarOfFastCommits(t *testing.T) {
	judge.NeedLoop(t)
	image := filepath.Join(t.TempDir(), "fs.img")
	packed := filepath.Join("..", "format", "ext4", "testdata", "fast-commit.img.gz")
	raw, err := exec.Command("gzip", "-dc", packed).Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	dir, _ := fstree.Mount(t, fstree.Copy(t, image), "rw,noatime")
	g := fileGroup(t, image, func() string { return fstree.Copy(t, image) })
	r, err := Run(ctx, g, Options{LV: "v", Dir: t.TempDir(), Format: Tar})
	if err != nil {
		t.Fatal(err)
	}
	compareTar(t, r.Image, dir)

	g.vols["v"].file = ""
	if _, err := Run(ctx, g, Options{LV: "v", Dir: t.TempDir(), Format: Tar}); !errs.Is(err, errs.Unsupported) || !strings.Contains(err.Error(), "fast_commit") {
		t.Errorf("where nothing can be mounted: %v", err)
	}
}

// What is no file system that we mount is refused with a way out.
func TestTarOfNoFileSystem(t *testing.T) {
	judge.NeedRoot(t)
	image := filepath.Join(t.TempDir(), "noise")
	if err := os.WriteFile(image, bytes.Repeat([]byte("noise..."), 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	g := fileGroup(t, image, func() string { return image })
	to := t.TempDir()
	if _, err := Run(ctx, g, Options{LV: "v", Dir: to, Format: Tar}); !errs.Is(err, errs.Unsupported) || !strings.Contains(errs.HintOf(err), "--format raw") {
		t.Errorf("%v (%s)", err, errs.HintOf(err))
	}
	nothingLeft(t, g, to)
}

// A volume of another file system, or of none, that the kernel cannot reach.
func TestTarWithoutFile(t *testing.T) {
	judge.NeedRoot(t)
	g := newGroup(t)
	g.add("v", mem.New(mib))
	to := t.TempDir()
	if _, err := Run(ctx, g, Options{LV: "v", Dir: to, Format: Tar}); !errs.Is(err, errs.Conflict) || !strings.Contains(errs.HintOf(err), "vgchange -ay") {
		t.Errorf("%v (%s)", err, errs.HintOf(err))
	}
	nothingLeft(t, g, to)
}
