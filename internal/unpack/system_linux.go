package unpack

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cowl/internal/archive"
)

// device makes a device file or a pipe.
func (u *unpacker) device(it *item) error {
	h := it.header
	err := unix.Mknodat(int(it.in.self.Fd()), it.tmp, h.Mode&archive.ModeType|0o600, int(unix.Mkdev(h.Major, h.Minor)))
	if errors.Is(err, unix.EPERM) {
		err = errNeedsRoot{err}
	}
	if err != nil {
		return writeError{err}
	}
	return u.describe(it, nil)
}

// errNeedsRoot says who can make a device file.
type errNeedsRoot struct{ error }

func (e errNeedsRoot) Error() string { return "only root can make device files" }
func (e errNeedsRoot) Unwrap() error { return e.error }

// describe gives a file what the tree says of it. Of a regular file f is open.
// Owners come first, because changing them takes other things away; the mode
// behind the ACL, which has the group's bits as its mask; the times last.
func (u *unpacker) describe(it *item, f *os.File) error {
	fd := -1
	if f != nil {
		fd = int(f.Fd())
	} else {
		var err error
		fd, err = unix.Openat(int(it.in.self.Fd()), it.tmp, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return writeError{&os.PathError{Op: "open", Path: it.rel, Err: err}}
		}
		defer unix.Close(fd)
	}
	h := it.header
	mode := h.Mode & 0o7777
	if !u.chown(it, fd) && mode&0o6000 != 0 && h.Mode&archive.ModeType != archive.ModeDir {
		mode &^= 0o6000
		u.notSet("set-user-ID and set-group-ID bits", it.rel, errors.New("the owner is another"), true)
	}
	// What is open as a path only is reached by its link in /proc, which leads to
	// the file itself, also if that is a symbolic link.
	self := "/proc/self/fd/" + strconv.Itoa(fd)
	for _, x := range it.xattrs {
		if err := unix.Setxattr(self, x.Name, x.Value, 0); err != nil {
			class, _, _ := strings.Cut(x.Name, ".")
			what := "extended attributes (" + class + ")"
			if strings.HasPrefix(x.Name, "system.posix_acl") {
				what = "access control lists"
			}
			u.notSet(what, it.rel, err, errors.Is(err, unix.EPERM) && os.Geteuid() != 0 && (class == "trusted" || class == "security"))
		}
	}
	if h.Mode&archive.ModeType != archive.ModeLink {
		if err := unix.Chmod(self, mode); err != nil {
			return writeError{&os.PathError{Op: "chmod", Path: it.rel, Err: err}}
		}
	}
	times := []unix.Timespec{timespec(h.Atime), timespec(h.Mtime)}
	if err := unix.UtimesNanoAt(int(it.in.self.Fd()), it.tmp, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return writeError{&os.PathError{Op: "utimensat", Path: it.rel, Err: err}}
	}
	return nil
}

// chown sets the owners, and tells whether they are as they should be.
func (u *unpacker) chown(it *item, fd int) bool {
	uid, gid := int(it.header.UID), int(it.header.GID)
	err := unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		return true
	}
	// One may be in the group all the same.
	_ = unix.Fchownat(fd, "", -1, gid, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
	u.notSet("owners", it.rel, err, os.Geteuid() != 0)
	return false
}

// publish gives a file its name.
func (u *unpacker) publish(in *place, tmp, base string) error {
	rel := relName(in, base)
	if u.o.Overwrite {
		return u.replace(in, tmp, base)
	}
	fd := int(in.self.Fd())
	err := unix.Renameat2(fd, tmp, fd, base, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // not every file system knows how
		return u.publishByLink(in, tmp, base)
	}
	return exists(rel, err)
}

// sync makes durable what was unpacked.
func (u *unpacker) sync() error {
	d, err := u.root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd())))
}

func timespec(t time.Time) unix.Timespec {
	ts, err := unix.TimeToTimespec(t)
	if err != nil { // beyond what the system counts
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	return ts
}
