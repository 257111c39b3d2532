package kernelfs

import (
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"cowl/internal/archive"
)

// Tree returns what is at and below a place in a file system that is mounted at
// root; where flat is set, without what is in the directories there. Symbolic links
// on the way lead to what they mean in that file system. The tree can be used
// until close.
func Tree(root, place string, flat bool) (t archive.Tree, close func() error, err error) {
	parent, base := path.Split(path.Clean("/" + place))
	fd, err := resolve(root, parent)
	if err != nil {
		return nil, nil, err
	}
	d := archive.Dir{Root: self(fd), Start: base, Flat: flat}
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH); err != nil {
		return nil, nil, errors.Join(pathError(place, err), unix.Close(fd))
	}
	return d, func() error { return unix.Close(fd) }, nil
}

// Open opens a regular file in a file system that is mounted at root, also by a
// symbolic link. Of anything else it returns only the mode, as stat(2) has it.
func Open(root, place string) (f *os.File, mode uint32, err error) {
	fd, err := resolve(root, place)
	if err != nil {
		return nil, 0, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, 0, pathError(place, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, st.Mode, nil
	}
	if f, err = os.Open(self(fd)); err != nil {
		err = pathError(place, errors.Unwrap(err))
	}
	return f, st.Mode, err
}

// resolve opens a place as a path only.
func resolve(root, place string) (fd int, err error) {
	at, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, pathError(root, err)
	}
	defer unix.Close(at)
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err = unix.Openat2(at, place, how)
	if err != nil {
		return -1, pathError(place, err)
	}
	return fd, nil
}

// self is the path of an open file.
func self(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

func pathError(place string, err error) error { return fmt.Errorf("%s: %w", place, err) }
