package archive

import (
	"context"
	"encoding/binary"
	"iter"
	"math"

	"cowl/internal/format/ext4"
	"cowl/internal/fsread"
)

// FileSystem is what is at and below a node of a file system that package
// fsread reads. A node that is no directory is a tree of one file, which needs
// a name.
type FileSystem struct {
	FS    *fsread.FS
	Start *fsread.Node
	Name  string
	// ByName has directories in the order of their names instead of their inodes.
	ByName bool
}

// Root is all of a file system.
func Root(fs *fsread.FS) (FileSystem, error) {
	root, err := fs.Inode(ext4.RootInode)
	return FileSystem{FS: fs, Start: root}, err
}

// Walk implements Tree. By default directories are in the order of their inodes,
// which is about that of the disk.
func (t FileSystem) Walk(ctx context.Context, visit func(name string, f File, err error) error) error {
	o := fsread.WalkOptions{}
	if t.ByName {
		o.Order = fsread.ByName
	}
	return t.FS.Walk(ctx, t.Start, o, func(it *fsread.Item) error {
		name := "./" + it.Path
		if it.Path == "" && it.Type != ext4.TypeDir {
			name += t.Name
		}
		if it.Node == nil {
			return visit(name, nil, it.Err)
		}
		return visit(name, &fsFile{t.FS, it.Node}, it.Err)
	})
}

// fsFile is a File of a FileSystem.
type fsFile struct {
	fs *fsread.FS
	n  *fsread.Node
}

// Header implements File.
func (f *fsFile) Header() *Header {
	h := &Header{
		Ino: uint64(f.n.Ino), Mode: uint32(f.n.Mode), Links: uint32(f.n.Links), UID: f.n.UID, GID: f.n.GID,
		Size: f.n.Size, Allocated: int64(f.n.Blocks()) * 512,
		Mtime: f.n.Mtime, Atime: f.n.Atime, Ctime: f.n.Ctime,
	}
	if t := f.n.Mode.Type(); t == ext4.TypeChar || t == ext4.TypeBlock {
		h.Major, h.Minor = f.n.Device()
	}
	return h
}

// Xattrs implements File.
func (f *fsFile) Xattrs() ([]Xattr, error) {
	attrs, err := f.fs.Xattrs(f.n)
	if len(attrs) == 0 {
		return nil, err
	}
	out := make([]Xattr, len(attrs))
	for i, a := range attrs {
		out[i] = Xattr(a)
	}
	return out, err
}

// Readlink implements File.
func (f *fsFile) Readlink() (string, error) { return f.fs.Readlink(f.n) }

// Open implements File. What was never written counts as a hole.
func (f *fsFile) Open() (Content, error) {
	file, err := f.fs.OpenFile(f.n)
	if err != nil {
		return Content{}, err
	}
	for e, err := range file.Extents(0, file.Size()) {
		if err != nil {
			return Content{}, err
		}
		if e.Kind != fsread.Data {
			return Content{ReaderAt: file, Data: dataOf(file)}, nil
		}
	}
	return Content{ReaderAt: file}, nil
}

// dataOf yields where a file has data, neighbours joined.
func dataOf(file *fsread.File) iter.Seq2[Span, error] {
	return func(yield func(Span, error) bool) {
		var last Span
		for e, err := range file.Extents(0, file.Size()) {
			switch {
			case err != nil:
				yield(Span{}, err)
				return
			case e.Kind != fsread.Data:
			case last.Len > 0 && last.Off+last.Len == e.Off:
				last.Len += e.Len
			case last.Len > 0 && !yield(last, nil):
				return
			default:
				last = Span{e.Off, e.Len}
			}
		}
		if last.Len > 0 {
			yield(last, nil)
		}
	}
}

// Node is what a header says as a node of fsread's. Numbers that do not fit (inodes
// of XFS on large devices) are the largest that do.
func (h *Header) Node() *fsread.Node {
	n := &fsread.Node{
		Ino: ext4.Ino(min(h.Ino, math.MaxUint32)), Mode: ext4.Mode(h.Mode), Links: uint16(min(h.Links, math.MaxUint16)), UID: h.UID, GID: h.GID,
		Size: h.Size, Sectors: uint64(h.Allocated) / 512, Mtime: h.Mtime, Atime: h.Atime, Ctime: h.Ctime,
	}
	binary.LittleEndian.PutUint32(n.Block[4:], h.Major<<8|h.Minor&0xff|h.Minor&^0xff<<12)
	return n
}
