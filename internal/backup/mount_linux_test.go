package backup

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/judge"
	"cowl/internal/volume"
)

const fsBytes = 96 * mib

// mounted makes a file system in a file, mounts it and fills it.
func mounted(t *testing.T, mkfs ...string) (image, dir string) {
	t.Helper()
	judge.NeedLoop(t)
	judge.Need(t, mkfs[0], "mount", "umount", "tar")
	image, dir = filepath.Join(t.TempDir(), "fs.img"), t.TempDir()
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 4*fsBytes); err != nil {
		t.Fatal(err)
	}
	run(t, append(mkfs, image)...)
	run(t, "mount", "-o", "loop", image, dir)
	t.Cleanup(func() { run(t, "umount", dir) })
	nastyTree(t, dir)
	return image, dir
}

func run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(judge.Find(args[0]), args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// frozen copies the image as a snapshot would show it: at one instant, the
// file system mounted and its journal not yet replayed.
func frozen(t *testing.T, image, dir string) string {
	t.Helper()
	run(t, "sync", "-f", dir)
	to := filepath.Join(t.TempDir(), "snapshot")
	run(t, "cp", "--sparse=always", image, to)
	return to
}

// fileGroup has a volume "v" that is the image, and snapshots that are made
// by copying it.
func fileGroup(t *testing.T, image string, copied func() string) *fakeGroup {
	g := newGroup(t)
	g.add("v", mem.New(4*fsBytes)).file = image
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
	compare := exec.Command("tar", "--compare", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", dir, "-f", r.Image)
	if out, err := compare.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("tar --compare: %v\n%s", err, out)
	}
	unpacked := t.TempDir()
	run(t, "tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", unpacked, "-xpf", r.Image)
	if want, got := listing(t, dir), listing(t, unpacked); want != got {
		t.Errorf("unpacked tree differs.\noriginal:\n%s\nunpacked:\n%s", want, got)
	}
	if v, err := Verify(ctx, r.Image, Reporter{}); err != nil || v.Manifest.Image.Format != Tar {
		t.Errorf("verify: %+v, %v", v, err)
	}
	if r.Files < 20 || !r.Verified || len(g.snapshots()) > 0 {
		t.Errorf("report %+v, snapshots %q", r, g.snapshots())
	}
	noLoopOver(t, r.Snapshot)
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

// A read-only snapshot with a dirty journal is refused: without replaying it
// the files would be old. One with a clean journal is fine.
func TestTarOfReadOnlySnapshot(t *testing.T) {
	image, dir := mounted(t, "mke2fs", "-q", "-t", "ext4")
	dirty := frozen(t, image, dir)
	clean := frozen(t, image, dir)
	judge.Need(t, "e2fsck")
	if out, err := exec.Command(judge.Find("e2fsck"), "-fy", clean).CombinedOutput(); err != nil && err.(*exec.ExitError).ExitCode() > 1 {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
	for path, want := range map[string]bool{dirty: false, clean: true} {
		g := fileGroup(t, image, func() string { return path })
		g.snapshot(volume.SnapshotSpec{Origin: "v", Name: "ro", ReadOnly: true})
		to := t.TempDir()
		_, err := Run(ctx, g, Options{LV: "ro", Dir: to, Format: Tar})
		switch {
		case want && err != nil:
			t.Errorf("clean journal: %v", err)
		case !want && (!errs.Is(err, errs.Conflict) || !strings.Contains(errs.HintOf(err), "lvchange -p rw")):
			t.Errorf("dirty journal: %v (%s)", err, errs.HintOf(err))
		}
		if !want && len(files(t, to)) > 0 {
			t.Errorf("files left: %q", files(t, to))
		}
	}
}

// What is no file system that we mount is refused with a way out.
func TestTarOfNoFileSystem(t *testing.T) {
	judge.NeedRoot(t)
	image := filepath.Join(t.TempDir(), "noise")
	if err := os.WriteFile(image, bytes.Repeat([]byte("noise "), 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	g := fileGroup(t, image, func() string { return image })
	to := t.TempDir()
	if _, err := Run(ctx, g, Options{LV: "v", Dir: to, Format: Tar}); !errs.Is(err, errs.Unsupported) || !strings.Contains(errs.HintOf(err), "--format raw") {
		t.Errorf("%v (%s)", err, errs.HintOf(err))
	}
	nothingLeft(t, g, to)
}

// A volume that the kernel cannot reach, as of a group that is not active.
func TestTarWithoutFile(t *testing.T) {
	judge.NeedRoot(t)
	g := fileGroup(t, "", func() string { return "" })
	to := t.TempDir()
	if _, err := Run(ctx, g, Options{LV: "v", Dir: to, Format: Tar}); !errs.Is(err, errs.Conflict) || !strings.Contains(errs.HintOf(err), "vgchange -ay") {
		t.Errorf("%v (%s)", err, errs.HintOf(err))
	}
	nothingLeft(t, g, to)
}

// A disk error in the middle of a file fails the archive.
func TestTarShortFile(t *testing.T) {
	p := paxWriter{io.Discard}
	if err := p.entry(&tarEntry{name: "./f", kind: tarFile, size: 100}, bytes.NewReader(make([]byte, 99)), nil); err == nil {
		t.Error("a file that ends early was archived")
	}
}
