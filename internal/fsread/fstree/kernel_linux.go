package fstree

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Kernel records a tree as the kernel shows it.
func Kernel(t testing.TB, root string) []Record {
	t.Helper()
	var out []Record
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		r, err := kernelRecord(path)
		if err != nil {
			return &os.PathError{Op: "look at", Path: path, Err: err}
		}
		r.Path = strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
		out = append(out, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func kernelRecord(path string) (r Record, err error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_ALL, &st); err != nil {
		return r, err
	}
	stamp := func(t unix.StatxTimestamp) string { return Time(t.Sec, int64(t.Nsec)) }
	r = Record{
		Ino: st.Ino, Mode: uint32(st.Mode), Links: st.Nlink, UID: st.Uid, GID: st.Gid, Size: int64(st.Size), Blocks: int64(st.Blocks),
		Major: st.Rdev_major, Minor: st.Rdev_minor, Mtime: stamp(st.Mtime), Atime: stamp(st.Atime), Ctime: stamp(st.Ctime),
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		r.Btime = stamp(st.Btime)
	}
	if r.Xattrs, err = kernelXattrs(path); err != nil {
		return r, err
	}
	switch r.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		r.Link, err = os.Readlink(path)
	case unix.S_IFREG, unix.S_IFDIR:
		err = r.open(path)
	}
	return r, err
}

// open adds what an open file tells.
func (r *Record) open(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return os.NewSyscallError("FS_IOC_GETFLAGS", err)
	}
	r.Flags = uint32(flags)
	if r.Project, err = project(f); err != nil {
		return err
	}
	if r.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	if r.Extents, err = fiemap(f, r.Size); err != nil {
		return err
	}
	r.Sum, err = Sum(f, r.Size, r.Extents)
	return err
}

// Sum is the SHA-256 of a file's content; of a very large one, of what is in
// its extents.
func Sum(f io.ReaderAt, size int64, extents []Extent) (string, error) {
	h := sha256.New()
	if size <= 64<<20 {
		_, err := io.Copy(h, io.NewSectionReader(f, 0, size))
		return hex.EncodeToString(h.Sum(nil)), err
	}
	for _, e := range extents {
		if _, err := io.Copy(h, io.NewSectionReader(f, e.Off, e.Len)); err != nil {
			return "", err
		}
	}
	return "parts " + hex.EncodeToString(h.Sum(nil)), nil
}

func kernelXattrs(path string) ([]string, error) {
	b := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, b)
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("llistxattr", err)
	}
	var out []string
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(b[:n]), "\x00"), "\x00") {
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, os.NewSyscallError("lgetxattr "+name, err)
		}
		out = append(out, Quote(name, value[:n]))
	}
	return out, nil
}

// fsxattr is struct fsxattr of <linux/fs.h>.
type fsxattr struct {
	xflags, extsize, nextents, projid, cowextsize uint32
	_                                             [8]byte
}

func project(f *os.File) (uint32, error) {
	var x fsxattr
	_, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), iocFsgetxattr, uintptr(unsafe.Pointer(&x)))
	if e != 0 {
		return 0, os.NewSyscallError("FS_IOC_FSGETXATTR", e)
	}
	return x.projid, nil
}

// fiemapRequest is struct fiemap of <linux/fiemap.h> with room for extents.
type fiemapRequest struct {
	start, length                  uint64
	flags, mapped, extentCount, _r uint32
	extents                        [256]fiemapExtent
}

type fiemapExtent struct {
	logical, physical, length uint64
	_                         [2]uint64
	flags                     uint32
	_                         [3]uint32
}

const (
	iocFiemap       = 0xc020660b
	iocFsgetxattr   = 0x801c581f
	fiemapLast      = 1
	fiemapUnwritten = 0x800
	fiemapInline    = 0x200
)

// fiemap lists a file's extents. Content in the inode counts as none.
func fiemap(f *os.File, size int64) ([]Extent, error) {
	var out []Extent
	for at := uint64(0); ; {
		r := fiemapRequest{start: at, length: ^uint64(0) - at, extentCount: 256}
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), iocFiemap, uintptr(unsafe.Pointer(&r))); e != 0 {
			return nil, os.NewSyscallError("FIEMAP", e)
		}
		for _, e := range r.extents[:r.mapped] {
			at = e.logical + e.length
			if e.flags&fiemapInline == 0 {
				out = append(out, Extent{int64(e.logical), int64(e.length), int64(e.physical), e.flags&fiemapUnwritten != 0})
			}
			if e.flags&fiemapLast != 0 {
				return Join(out, size), nil
			}
		}
		if r.mapped == 0 {
			return Join(out, size), nil
		}
	}
}
