//go:build linux

package fuse

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"cowl/internal/errs"
)

// attach mounts a file system: by the system call where that is allowed, which
// needs no helper, and otherwise through fusermount3.
func attach(path string, raw gofuse.RawFileSystem, o *gofuse.MountOptions) (*gofuse.Server, error) {
	fd, err := attachDirectly(path, o)
	if err == nil {
		// go-fuse serves a file system that somebody else mounted under this name.
		return newServer(raw, "/dev/fd/"+strconv.Itoa(fd), o)
	}
	if !errors.Is(err, unix.EPERM) {
		return nil, errUnusable(path, err)
	}
	return newServer(raw, path, o)
}

func newServer(raw gofuse.RawFileSystem, path string, o *gofuse.MountOptions) (*gofuse.Server, error) {
	server, err := gofuse.NewServer(raw, path, o)
	if err != nil {
		return nil, errUnusable(path, err)
	}
	return server, nil
}

// attachDirectly mounts by the system call. The library's own way leaks the
// descriptor into child processes, and one of those that outlives cowl would
// keep the mount from dying with it.
func attachDirectly(path string, o *gofuse.MountOptions) (fd int, err error) {
	fd, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,default_permissions,max_read=%d",
		fd, os.Geteuid(), os.Getegid(), o.MaxWrite)
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount(o.FsName, path, "fuse."+o.Name, flags, options); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("mount %s: %w", path, err)
	}
	return fd, nil
}

// refusePolls makes the kernel ask, once, whether files can be polled, and so
// never again. If it asked when this process opens a file of its own mount, Go
// would wait for the answer with a thread that the answer needs.
func refusePolls(path string) {
	fd, err := unix.Open(filepath.Join(path, ".go-fuse-epoll-hack"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	unix.Close(fd)
}

// detach unmounts, with MNT_DETACH in flags also what is in use.
func detach(path string, flags int) error {
	err := unix.Unmount(path, flags|unix.UMOUNT_NOFOLLOW)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	args := []string{"-u"}
	if flags&unix.MNT_DETACH != 0 {
		args = append(args, "-z")
	}
	out, err := exec.Command("fusermount3", append(args, "--", path)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("fusermount3: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// detachWhenFree unmounts as soon as nobody uses the mount. The kernel does not
// tell when that is, so it tries again and again.
func detachWhenFree(ctx context.Context, path string) error {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		err := detach(path, 0)
		// EINVAL: somebody has unmounted it already; ENOENT: and removed the directory.
		if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// clearStale detaches mounts at the path whose server is dead.
func clearStale(path string) error {
	for range 100 { // they can be stacked
		kind, err := mountedAt(path)
		if err != nil || kind == "" {
			return err
		}
		if !strings.HasPrefix(kind, "fuse") || !isDead(path) {
			return errs.E(errs.Busy, "mount %s: something is mounted there already (%s)", path, kind)
		}
		if err := detach(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("clear the dead mount at %s: %w", path, err)
		}
	}
	return errs.E(errs.Busy, "mount %s: too much is mounted there", path)
}

// deadTimeout is how long a mount's server may take to answer before it counts
// as alive, and busy.
const deadTimeout = 3 * time.Second

// isDead tells whether the server of the FUSE mount at the path is gone. Unlike
// a stat, whose answer may be cached, a statfs always asks it.
func isDead(path string) bool {
	answer := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		answer <- unix.Statfs(path, &st)
	}()
	select {
	case err := <-answer:
		return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED)
	case <-time.After(deadTimeout):
		return false
	}
}

// mountedAt returns the type of the file system that is mounted at a path, ""
// for none. It does not touch the path, which may hang.
func mountedAt(path string) (kind string, err error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	// 36 35 98:0 /root /mount/point rw,noatime shared:1 - ext3 /dev/root rw
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		place, fs, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(place)
		if ok && len(fields) > 4 && unescape(fields[4]) == path {
			kind, _, _ = strings.Cut(fs, " ") // the last one is on top
		}
	}
	return kind, lines.Err()
}

// unescape undoes the \ooo that the kernel writes for blanks and backslashes.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
