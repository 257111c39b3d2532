package archive

import (
	"context"
	"errors"
	"iter"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Dir is a directory of the running system, by its path: a file system that is
// mounted read-only.
type Dir string

// Walk implements Tree. Directories are in the order of their names.
func (d Dir) Walk(ctx context.Context, visit func(name string, f File, err error) error) error {
	var st unix.Stat_t
	if err := unix.Stat(string(d), &st); err != nil {
		return pathError("stat", string(d), err)
	}
	return d.walk(ctx, "./", &dirFile{path: d.path("./"), st: st}, visit)
}

// path is where an entry can be read. The root may be a link in /proc, which has
// to be followed: hence the joining by hand.
func (d Dir) path(name string) string { return string(d) + strings.TrimPrefix(name, ".") }

// walk visits a file and, if it is a directory, what is in it.
func (d Dir) walk(ctx context.Context, name string, f *dirFile, visit func(string, File, error) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := visit(name, f, nil)
	if err != nil || f.st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	entries, err := os.ReadDir(d.path(name))
	if err != nil {
		if err := visit(name, f, err); err != nil {
			return err
		}
	}
	for _, e := range entries {
		name := strings.TrimSuffix(name, "/") + "/" + e.Name()
		below := &dirFile{path: d.path(name)}
		if err := unix.Lstat(below.path, &below.st); err != nil {
			err = visit(name, nil, pathError("lstat", below.path, err))
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
		Ino: f.st.Ino, Mode: f.st.Mode, Links: uint32(f.st.Nlink), UID: f.st.Uid, GID: f.st.Gid, Size: f.st.Size,
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
	c.Data = dataSpans(file, f.st.Size)
	for s, err := range c.Data {
		if err != nil {
			return Content{}, errors.Join(err, file.Close())
		}
		if s == (Span{0, f.st.Size}) {
			c.Data = nil // few blocks for its size (compressed, inline), but no hole
		}
		break
	}
	return c, nil
}

// dataSpans yields where a file has data.
func dataSpans(f *os.File, size int64) iter.Seq2[Span, error] {
	return func(yield func(Span, error) bool) {
		for at := int64(0); at < size; {
			start, err := f.Seek(at, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) {
				return // a hole to the end
			}
			if err == nil {
				at, err = f.Seek(start, unix.SEEK_HOLE)
			}
			if err != nil {
				yield(Span{}, err)
				return
			}
			if !yield(Span{start, min(at, size) - start}, nil) {
				return
			}
		}
	}
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
