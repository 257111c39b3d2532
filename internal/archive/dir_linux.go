package archive

import (
	"cmp"
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Dir is what is at and below a place of the running system, in a file system
// that is mounted read-only.
type Dir struct {
	Root string // a directory's path; may be a link in /proc
	// Start is a name in Root, "" for Root itself; one that is no directory is a
	// tree of one file.
	Start string
	// Flat leaves out what is in the directories below.
	Flat bool
}

// start is the path of the tree's beginning. Root may be a link, which has to be
// followed: hence the joining by hand.
func (d Dir) start() string { return d.Root + "/" + cmp.Or(d.Start, ".") }

// lstat looks at a file.
func (d Dir) lstat(path string) (*dirFile, error) {
	f := &dirFile{path: path}
	if err := unix.Lstat(path, &f.st); err != nil {
		return nil, pathError("lstat", path, err)
	}
	return f, nil
}

// Walk implements Tree. Directories are in the order of their names.
func (d Dir) Walk(ctx context.Context, visit func(name string, f File, err error) error) error {
	f, err := d.lstat(d.start())
	if err != nil {
		return err
	}
	name := "./"
	if f.st.Mode&unix.S_IFMT != unix.S_IFDIR {
		name += d.Start
	}
	return d.walk(ctx, name, f, visit)
}

// walk visits a file and, if it is a directory, what is in it.
func (d Dir) walk(ctx context.Context, name string, f *dirFile, visit func(string, File, error) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := visit(name, f, nil)
	if err != nil || f.st.Mode&unix.S_IFMT != unix.S_IFDIR || d.Flat && name != "./" {
		return err
	}
	entries, err := os.ReadDir(f.path)
	if err != nil {
		if err := visit(name, f, err); err != nil {
			return err
		}
	}
	for _, e := range entries {
		name := strings.TrimSuffix(name, "/") + "/" + e.Name()
		below, err := d.lstat(f.path + "/" + e.Name())
		if err != nil {
			err = visit(name, nil, err)
		} else {
			err = d.walk(ctx, name, below, visit)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// dirFile is a File of a Dir.
type dirFile struct {
	path string
	st   unix.Stat_t
}

// Header implements File.
func (f *dirFile) Header() *Header {
	return &Header{
		Ino: f.st.Ino, Mode: f.st.Mode, Links: uint32(f.st.Nlink), UID: f.st.Uid, GID: f.st.Gid,
		Size: f.st.Size, Allocated: f.st.Blocks * 512,
		Major: unix.Major(f.st.Rdev), Minor: unix.Minor(f.st.Rdev),
		Mtime: time.Unix(f.st.Mtim.Unix()), Atime: time.Unix(f.st.Atim.Unix()), Ctime: time.Unix(f.st.Ctim.Unix()),
	}
}

// Readlink implements File.
func (f *dirFile) Readlink() (string, error) { return os.Readlink(f.path) }

// Open implements File.
func (f *dirFile) Open() (Content, error) {
	file, err := os.OpenFile(f.path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return Content{}, err
	}
	c := Content{ReaderAt: file, Close: file.Close}
	if f.st.Blocks*512 >= f.st.Size {
		return c, nil
	}
	spans, err := dataSpans(file, f.st.Size, maxSpans)
	if err != nil {
		return Content{}, errors.Join(err, file.Close())
	}
	if len(spans) != 1 || spans[0] != (Span{0, f.st.Size}) { // few blocks for its size (compressed, inline), but no hole
		c.Data = func(yield func(Span, error) bool) {
			for _, s := range spans {
				if !yield(s, nil) {
					return
				}
			}
		}
	}
	return c, nil
}

// maxSpans bounds the list of a file's data: 1 MiB.
const maxSpans = 64 << 10

// dataSpans returns where a file has data. The kernel's answer is kept, for it
// changes while the file is read: space that was allocated and never written is
// a hole until there are pages of it in memory, and reading ahead puts them
// there. Where the list would be longer than limit, short holes count as data.
func dataSpans(f *os.File, size int64, limit int) ([]Span, error) {
	var spans []Span
	shortest := int64(1) // hole that is kept, in bytes
	for at := int64(0); at < size; {
		start, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // a hole to the end
		}
		if err == nil {
			at, err = f.Seek(start, unix.SEEK_HOLE)
		}
		if err != nil {
			return nil, err
		}
		spans = joined(spans, Span{start, min(at, size) - start}, shortest)
		for len(spans) > limit {
			shortest *= 2
			few := spans[:0]
			for _, s := range spans {
				few = joined(few, s, shortest)
			}
			spans = few
		}
	}
	return spans, nil
}

// joined appends s, to the last span if the hole between them is too short.
func joined(spans []Span, s Span, shortest int64) []Span {
	if n := len(spans); n > 0 && s.Off-spans[n-1].Off-spans[n-1].Len < shortest {
		spans[n-1].Len = s.Off + s.Len - spans[n-1].Off
		return spans
	}
	return append(spans, s)
}

// Xattrs implements File. Those of a symlink are its own.
func (f *dirFile) Xattrs() ([]Xattr, error) {
	names, err := grow(func(b []byte) (int, error) { return unix.Llistxattr(f.path, b) })
	if errors.Is(err, unix.ENOTSUP) || err == nil && len(names) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, pathError("llistxattr", f.path, err)
	}
	var found []Xattr
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		value, err := grow(func(b []byte) (int, error) { return unix.Lgetxattr(f.path, name, b) })
		if err != nil {
			return nil, pathError("lgetxattr "+name, f.path, err)
		}
		found = append(found, Xattr{name, value})
	}
	return found, nil
}

// grow calls get with a large enough buffer.
func grow(get func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 4 {
		b := make([]byte, size)
		n, err := get(b)
		if err == nil {
			return b[:n], nil
		}
		if !errors.Is(err, unix.ERANGE) || size > 1<<20 {
			return nil, err
		}
	}
}

func pathError(op, path string, err error) error { return &os.PathError{Op: op, Path: path, Err: err} }
