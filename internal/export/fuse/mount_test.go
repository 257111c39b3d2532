//go:build linux

package fuse

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/judge"
)

// helper is another process that serves a mount.
type helper struct {
	t     testing.TB
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Scanner
}

// startHelper runs a command in which the test's program mounts the path.
func startHelper(t testing.TB, path string, command ...string) *helper {
	t.Helper()
	h := &helper{t: t, cmd: exec.Command(command[0], command[1:]...)}
	h.cmd.Env = append(os.Environ(), helperVar+"="+path)
	h.cmd.Stderr = os.Stderr
	var err error
	h.stdin, err = h.cmd.StdinPipe()
	check(t, err)
	out, err := h.cmd.StdoutPipe()
	check(t, err)
	check(t, h.cmd.Start())
	t.Cleanup(func() {
		h.cmd.Process.Kill()
		h.cmd.Wait()
	})
	h.lines = bufio.NewScanner(out)
	return h
}

// expect wants the helper to say something.
func (h *helper) expect(want string) {
	h.t.Helper()
	if h.lines.Scan(); h.lines.Text() != want {
		h.t.Fatalf("the helper says %q, want %q", h.lines.Text(), want)
	}
}

// A daemon that was killed leaves its mount, on which everything fails with
// "transport endpoint is not connected". The next one must get over it, also
// when somebody still has files open there.
func TestStaleMount(t *testing.T) {
	judge.NeedFile(t, "/dev/fuse")
	dir := filepath.Join(t.TempDir(), "a b\tc") // the kernel escapes these
	h := startHelper(t, dir, os.Args[0])
	h.expect("mounted")
	fd := open(t, filepath.Join(dir, "vol"), unix.O_RDWR)
	_, err := os.Stat(dir) // so that it is cached
	check(t, err)
	h.cmd.Process.Kill()
	h.cmd.Wait()
	eventually(t, func() bool { return isDead(dir) })

	m, err := Serve(dir, newShelf().with("new", mem.New(4096)))
	check(t, err)
	if _, err := os.Stat(filepath.Join(dir, "new")); err != nil {
		t.Error(err)
	}
	if _, err := unix.Pread(fd, make([]byte, 10), 0); err == nil {
		t.Error("read through the dead mount succeeded")
	}
	check(t, m.Close(t.Context()))
	if kind, err := mountedAt(dir); kind != "" || err != nil {
		t.Errorf("still mounted: %q, %v", kind, err)
	}
}

// What is alive is not cleared away.
func TestBusyMount(t *testing.T) {
	_, dir := serve(t, newShelf().with("vol", mem.New(4096)))
	if _, err := Serve(dir, newShelf()); !errs.Is(err, errs.Busy) {
		t.Errorf("Serve over a living mount: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "vol")); err != nil {
		t.Error(err)
	}
}

// Nor is what is none of ours. (A file system of the test's own: a broken
// clearStale detaches it.)
func TestForeignMount(t *testing.T) {
	judge.NeedRoot(t)
	dir := t.TempDir()
	check(t, unix.Mount("none", dir, "tmpfs", 0, "size=64k"))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	check(t, os.WriteFile(filepath.Join(dir, "theirs"), nil, 0o600))
	if _, err := Serve(dir, newShelf()); !errs.Is(err, errs.Busy) {
		t.Errorf("Serve over a tmpfs: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "theirs")); err != nil {
		t.Error(err)
	}
}

// Where it cannot be mounted nothing is left behind.
func TestCannotMount(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	check(t, os.WriteFile(file, nil, 0o600))
	if _, err := Serve(file, newShelf()); !errs.Is(err, errs.Exists) {
		t.Errorf("mounted on a file: %v", err)
	}
	if _, err := Serve(filepath.Join(dir, "none", "mnt"), newShelf()); !errs.Is(err, errs.NotFound) {
		t.Errorf("mounted in a directory that is not there: %v", err)
	}
	list, err := os.ReadDir(dir)
	check(t, err)
	if len(list) != 1 {
		t.Errorf("left behind: %v", list)
	}
}

// The directory goes if Serve made it, and stays if it was there.
func TestDirectoryAfterClose(t *testing.T) {
	m, dir := serve(t, newShelf())
	check(t, m.Close(t.Context()))
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory after Close: %v", err)
	}
	check(t, os.Mkdir(dir, 0o755))
	m, err := Serve(dir, newShelf())
	check(t, err)
	check(t, m.Close(t.Context()))
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("directory that was there: %v, %v", fi, err)
	}
}

// Close waits for the last user.
func TestCloseWaits(t *testing.T) {
	exports := newShelf().with("vol", mem.New(4096))
	m, dir := serve(t, exports)
	fd := open(t, filepath.Join(dir, "vol"), unix.O_RDWR)
	done := make(chan error, 1)
	go func() { done <- m.Close(context.Background()) }()
	_, err := unix.Pwrite(fd, []byte("still here"), 0)
	check(t, err)
	select {
	case err := <-done:
		t.Fatalf("Close returned %v while a file was open", err)
	case <-time.After(100 * time.Millisecond): // not for anything to happen: it must not
	}
	unix.Close(fd)
	check(t, <-done)
	if n := exports.open("vol"); n != 0 {
		t.Errorf("export has %d users", n)
	}
}

// A user who does not leave must not keep the daemon from ending, nor may what
// he does later touch a device that is closed.
func TestCloseCutsOff(t *testing.T) {
	exports := newShelf().with("vol", mem.New(4096))
	m, dir := serve(t, exports)
	fd := open(t, filepath.Join(dir, "vol"), unix.O_RDWR)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := m.Close(ctx)
	if err == nil || !strings.Contains(err.Error(), "1 files were in use") {
		t.Errorf("Close: %v", err)
	}
	if n := exports.open("vol"); n != 0 {
		t.Errorf("export has %d users", n)
	}
	if _, err := unix.Pwrite(fd, []byte("too late"), 0); !errors.Is(err, unix.EIO) {
		t.Errorf("write after Close: %v", err)
	}
	if err := unix.Fsync(fd); !errors.Is(err, unix.EIO) {
		t.Errorf("fsync after Close: %v", err)
	}
	if kind, err := mountedAt(dir); kind != "" || err != nil {
		t.Errorf("still mounted: %q, %v", kind, err)
	}
}

// A child process that inherits the connection to the kernel would keep a dead
// daemon's mount alive, and hanging.
func TestNothingLeaks(t *testing.T) {
	serve(t, newShelf())
	out, err := exec.Command("ls", "-l", "/proc/self/fd").CombinedOutput()
	check(t, err)
	if strings.Contains(string(out), "fuse") {
		t.Errorf("a child process has\n%s", out)
	}
}

// An ordinary user mounts with the help of fusermount3. Root plays one here,
// with a /dev/fuse of its own that everybody may open, as distributions have it.
func TestOrdinaryUser(t *testing.T) {
	judge.NeedRoot(t)
	judge.NeedFile(t, "/dev/fuse")
	judge.Need(t, "unshare", "setpriv", "fusermount3", "mknod", "sh")
	dir, err := os.MkdirTemp("", "cowl-fuse") // t.TempDir is closed to others
	check(t, err)
	defer os.RemoveAll(dir)
	mnt, program := filepath.Join(dir, "home", "mnt"), filepath.Join(dir, "program")
	check(t, os.Chmod(dir, 0o755))
	check(t, os.Mkdir(filepath.Dir(mnt), 0o755))
	check(t, os.Chown(filepath.Dir(mnt), 65534, 65534))
	run(t, "cp", os.Args[0], program)
	check(t, os.Chmod(program, 0o755))

	const script = `set -e
		mknod -m 666 "$1/fuse" c 10 229
		mount --bind "$1/fuse" /dev/fuse
		exec setpriv --reuid=65534 --regid=65534 --clear-groups "$1/program"`
	h := startHelper(t, mnt, "unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", dir)
	h.expect("mounted")

	// Seen from within its mount namespace, through /proc.
	inside := filepath.Join("/proc", strconv.Itoa(h.cmd.Process.Pid), "root", mnt, "vol")
	info := run(t, "nsenter", "--mount", "--target", strconv.Itoa(h.cmd.Process.Pid),
		"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "stat", "-c", "%u %a %s", filepath.Join(mnt, "vol"))
	if strings.TrimSpace(info) != "65534 600 1048576" {
		t.Errorf("the user sees %s", info)
	}
	if _, err := os.Stat(inside); !errors.Is(err, os.ErrPermission) {
		t.Errorf("somebody else, even root, gets %v", err)
	}
	h.stdin.Close()
	h.expect("unmounted")
	check(t, h.cmd.Wait())
}
