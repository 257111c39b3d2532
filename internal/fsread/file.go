package fsread

import (
	"fmt"
	"io"
	"iter"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/format/ext4"
)

// File is the content of a regular file. ReadAt keeps to io.ReaderAt's
// contract, and may be called in parallel.
type File struct {
	fs     *FS
	n      *Node
	m      mapper // nil if the content is in the inode
	inline []byte
}

// Extent is a part of a file of one kind. All in bytes.
type Extent struct {
	Off, Len int64
	Kind     Kind
	// Phys is where on the device the part begins, -1 for holes and for
	// content that is in the inode.
	Phys int64
}

// End is the first byte after the extent.
func (e Extent) End() int64 { return e.Off + e.Len }

// OpenFile returns a regular file's content. There is nothing to close. Of an
// encrypted file it is errs.Unsupported.
func (f *FS) OpenFile(n *Node) (*File, error) {
	if n.Mode.Type() != ext4.TypeFile {
		return nil, errs.E(errs.Usage, "inode %d is no regular file", n.Ino)
	}
	return f.open(n)
}

// open returns what is in an inode of any type that has content.
func (f *FS) open(n *Node) (*File, error) {
	if n.Flags&ext4.FlagEncrypt != 0 {
		return nil, errEncrypted(n)
	}
	file := &File{fs: f, n: n}
	if n.Flags&ext4.FlagInline == 0 {
		file.m = f.mapper(n)
		return file, nil
	}
	data, err := f.inlineData(n)
	if err != nil {
		return nil, err
	}
	// A file may be longer than its content: mke2fs -d makes such files of
	// holes, and the kernel shows them so.
	file.inline = data[:min(n.Size, int64(len(data)))]
	return file, nil
}

// errEncrypted refuses what fscrypt has encrypted.
func errEncrypted(n *Node) error {
	return errs.E(errs.Unsupported, "inode %d is encrypted (fscrypt), and cowl has no keys", n.Ino)
}

// inlineData is the content of an inode that holds it itself: its beginning
// where others have block numbers, the rest as an attribute.
func (f *FS) inlineData(n *Node) ([]byte, error) {
	data := append([]byte(nil), n.Block[:]...)
	rest, err := f.inlineRest(n)
	return append(data, rest...), err
}

// inlineRest is the part of the content that is kept as an attribute.
func (f *FS) inlineRest(n *Node) ([]byte, error) {
	if n.Attrs == nil {
		return nil, nil
	}
	attrs, err := f.sb.DecodeInodeAttrs(n.Attrs)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", n.Ino, err)
	}
	for i := range attrs {
		if attrs[i].IsInlineData() {
			return f.attrValue(n, &attrs[i])
		}
	}
	return nil, nil
}

// Size is the file's size in bytes.
func (x *File) Size() int64 { return x.n.Size }

// ReadAt reads from the file; holes are zeroes.
func (x *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errs.E(errs.Usage, "offset %d", off)
	}
	if off >= x.n.Size {
		return 0, io.EOF
	}
	var short error
	if rest := x.n.Size - off; int64(len(p)) > rest {
		p, short = p[:rest], io.EOF
	}
	if x.m == nil {
		clear(p[copy(p, x.inline[min(off, int64(len(x.inline))):]):])
		return len(p), short
	}
	done := 0
	for done < len(p) {
		n, err := x.readSome(p[done:], off+int64(done))
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, short
}

// readSome reads as much as is of one segment.
func (x *File) readSome(p []byte, off int64) (int, error) {
	bs := int64(x.fs.sb.BlockSize)
	s, err := x.m.at(uint64(off / bs))
	if err != nil {
		return 0, err
	}
	in := off - int64(s.block)*bs
	// A hole may end beyond what an int64 holds in bytes.
	if left := s.end() - uint64(off/bs); left < uint64(len(p))/uint64(bs)+2 {
		p = p[:min(int64(len(p)), int64(left)*bs-off%bs)]
	}
	if s.kind != Data {
		clear(p)
		return len(p), nil
	}
	return len(p), x.fs.im.read(p, int64(s.start)*bs+in)
}

// Extents yields what the range consists of, in order and without gaps, cut
// off at the file's end. After an error it yields nothing more.
func (x *File) Extents(off, length int64) iter.Seq2[Extent, error] {
	if err := block.CheckRange(off, 0, max(x.n.Size, off)); err != nil || length < 0 {
		return func(yield func(Extent, error) bool) {
			yield(Extent{}, errs.E(errs.Usage, "range of %d bytes at offset %d", length, off))
		}
	}
	end := x.n.Size
	if off < end && length < end-off {
		end = off + length
	}
	return func(yield func(Extent, error) bool) {
		if off >= end {
			return
		}
		if x.m == nil {
			x.inlineExtents(off, end, yield)
			return
		}
		bs := uint64(x.fs.sb.BlockSize)
		for s, err := range x.fs.segments(x.m, uint64(off)/bs, (uint64(end)+bs-1)/bs) {
			if err != nil {
				yield(Extent{}, err)
				return
			}
			if !yield(s.bytes(int64(bs), off, end), nil) {
				return
			}
		}
	}
}

// inlineExtents yields what there is of content in the inode, and the hole
// behind it.
func (x *File) inlineExtents(off, end int64, yield func(Extent, error) bool) {
	stored := min(end, int64(len(x.inline)))
	if off < stored && !yield(Extent{off, stored - off, Data, -1}, nil) {
		return
	}
	if off = max(off, stored); off < end {
		yield(Extent{off, end - off, Hole, -1}, nil)
	}
}

// bytes turns a segment of a file that ends at end into an extent within
// [off, end).
func (s segment) bytes(bs, off, end int64) Extent {
	lo := int64(s.block) * bs
	e := Extent{Off: max(lo, off), Kind: s.kind, Phys: -1}
	e.Len = min(end, int64(s.end())*bs) - e.Off
	if s.kind != Hole {
		e.Phys = int64(s.start)*bs + e.Off - lo
	}
	return e
}
