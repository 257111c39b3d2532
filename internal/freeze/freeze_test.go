//go:build linux

package freeze

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cowl/internal/errs"
	"cowl/internal/judge"
)

// holder makes the test binary hold a file system until it is killed.
const holder = "COWL_TEST_HOLDER"

func TestMain(m *testing.M) {
	if os.Getenv(unguarded) != "" {
		holdUnguarded()
		return
	}
	if Guard(os.Args[1:]) {
		return
	}
	if point := os.Getenv(holder); point != "" {
		holdForever(point)
	}
	os.Exit(m.Run())
}

func holdForever(point string) {
	mounts, err := Mounts(deviceAt(point))
	if err == nil {
		_, err = New(context.Background(), Plan{Mounts: mounts, Limit: time.Hour})
	}
	fmt.Println(err)
	select {}
}

// deviceAt returns the device of the file system that a directory is on.
func deviceAt(path string) Device {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Device{}
	}
	return Device{unix.Major(st.Dev), unix.Minor(st.Dev)}
}

// mounted returns a directory where a file system of its own is mounted.
func mounted(t *testing.T) string {
	t.Helper()
	judge.NeedLoop(t)
	judge.Need(t, "mke2fs", "mount", "umount")
	dir := t.TempDir()
	image, point := filepath.Join(dir, "image"), filepath.Join(dir, "a mount point")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 4<<20), os.Mkdir(point, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{"mke2fs -q -F " + image, "mount -o loop " + image} {
		args := strings.Fields(c)
		if args[0] == "mount" {
			args = append(args, point)
		}
		if out, err := exec.Command(judge.Find(args[0]), args[1:]...).CombinedOutput(); err != nil {
			if args[0] == "mount" {
				judge.Absent(t, "cannot mount: %v: %s", err, out)
			}
			t.Fatalf("%s: %v: %s", c, err, out)
		}
	}
	t.Cleanup(func() {
		// A guard whose process was killed has its file open for a moment more.
		err := unix.Unmount(point, 0)
		for ; errors.Is(err, unix.EBUSY); err = unix.Unmount(point, 0) {
			time.Sleep(time.Millisecond)
		}
		if err != nil {
			t.Errorf("umount: %v", err)
		}
	})
	return point
}

// frozen reports whether the file system is frozen, by freezing it.
func frozen(t *testing.T, point string) bool {
	t.Helper()
	f, err := os.Open(point)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := mountStep{f, point}
	err = s.hold()
	if err == nil {
		err = s.free()
		if err == nil {
			return false
		}
	}
	if !errs.Is(err, errs.Busy) {
		t.Fatal(err)
	}
	return true
}

func mountsAt(t *testing.T, point string) []Mount {
	t.Helper()
	mounts, err := Mounts(deviceAt(point))
	if err != nil || len(mounts) != 1 || mounts[0].Point != point {
		t.Fatalf("mounts of the device at %s: %+v, %v", point, mounts, err)
	}
	return mounts
}

// Writes begin to wait, and go on after the release.
func TestHold(t *testing.T) {
	point := mounted(t)
	mounts := mountsAt(t, point)
	h, err := New(t.Context(), Plan{Mounts: mounts})
	if err != nil {
		t.Fatal(err)
	}
	if !frozen(t, point) {
		t.Error("the file system is not frozen")
	}
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(filepath.Join(point, "file"), []byte("x"), 0o600) }()
	if _, err := New(t.Context(), Plan{Mounts: mounts}); !errs.Is(err, errs.Busy) {
		t.Errorf("what is frozen is frozen once more: %v", err)
	}
	if !frozen(t, point) {
		t.Error("the refused one has let go of the first one's file system")
	}
	select {
	case err := <-written:
		t.Errorf("a frozen file system is written to: %v", err)
	default:
	}
	if err := h.Release(); err != nil {
		t.Error(err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
	if frozen(t, point) {
		t.Error("still frozen")
	}
}

// What somebody else lets go of was not held.
func TestThawedByOthers(t *testing.T) {
	point := mounted(t)
	h, err := New(t.Context(), Plan{Mounts: mountsAt(t, point)})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(point)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := (mountStep{f, point}).free(); err != nil {
		t.Fatal(err)
	}
	if err := h.Release(); !errs.Is(err, errs.Conflict) {
		t.Errorf("Release: %v", err)
	}
}

// The limit is kept by another process than the one that hangs.
func TestLimit(t *testing.T) {
	point := mounted(t)
	h, err := New(t.Context(), Plan{Mounts: mountsAt(t, point), Limit: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	// It waits until the guard lets go.
	if err := os.WriteFile(filepath.Join(point, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.Release(); !errs.Is(err, errs.Conflict) {
		t.Errorf("Release after the limit: %v", err)
	}
	if frozen(t, point) {
		t.Error("still frozen")
	}
}

func TestKilled(t *testing.T) {
	point := mounted(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), holder+"="+point)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, err := out.Read(b)
	if err != nil || string(b[:n]) != "<nil>\n" {
		t.Errorf("the holder says %q, %v", b[:n], err)
	}
	if !frozen(t, point) {
		t.Error("the file system is not frozen")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	// It waits until the guard lets go.
	if err := os.WriteFile(filepath.Join(point, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Nothing of a plan is held that cannot be held as a whole.
func TestImpossiblePlan(t *testing.T) {
	point := mounted(t)
	mounts := mountsAt(t, point)
	gone := mounts[0]
	gone.Point, gone.Path = "/nowhere", "/nowhere"
	other := mounts[0]
	other.Point, other.Path = "/proc", "/proc"
	for name, plan := range map[string]Plan{
		"a mount that is gone":       {Mounts: append(mounts, gone)},
		"another one at its place":   {Mounts: append(mounts, other)},
		"a device that is not there": {Mounts: mounts, Devices: []string{"LVM-nosuch"}},
	} {
		if _, err := New(t.Context(), plan); err == nil {
			t.Errorf("%s: no error", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
		if frozen(t, point) {
			t.Fatalf("%s: the file system stays frozen", name)
		}
	}
}
