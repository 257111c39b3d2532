package fsread

import (
	"fmt"
	"iter"

	"cowl/internal/errs"
	"cowl/internal/format/ext4"
)

// Entry is a name in a directory.
type Entry struct {
	Name string
	Ino  ext4.Ino
	// Type is the file's type, as Node.Mode.Type has it; 0 in file systems
	// that keep it in the inode only.
	Type ext4.Mode
	// next is where the directory goes on behind the entry.
	next int64
}

// dirPiece is how much of a directory is read at once, bytes.
const dirPiece = 64 << 10

// ReadDir yields a directory's entries in the order of the disk, "." and ".."
// left out. An error concerns one block or a part of one: who goes on after
// it gets the entries of the others.
func (f *FS) ReadDir(n *Node) iter.Seq2[Entry, error] { return f.readDir(n, 0) }

// readDir is ReadDir behind the entry whose next is given.
func (f *FS) readDir(n *Node, from int64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		switch {
		case n.Mode.Type() != ext4.TypeDir:
			yield(Entry{}, errs.E(errs.Usage, "inode %d is no directory", n.Ino))
		case n.Flags&ext4.FlagEncrypt != 0:
			yield(Entry{}, errEncrypted(n))
		case n.Flags&ext4.FlagInline != 0:
			f.readInlineDir(n, from, yield)
		default:
			f.readBlocks(n, from, yield)
		}
	}
}

// readInlineDir reads a directory that is in its inode: one piece where others
// have block numbers, and one that is an attribute.
func (f *FS) readInlineDir(n *Node, from int64, yield func(Entry, error) bool) {
	rest, err := f.inlineRest(n)
	if err != nil && !yield(Entry{}, err) {
		return
	}
	s := dirScan{fs: f, n: n, yield: yield}
	if from < ext4.BlockBytes {
		from = max(from, ext4.InlineDirHead)
		if !s.entries(n.Block[:], int(from), 0) {
			return
		}
		from = ext4.BlockBytes
	}
	s.entries(rest, int(min(from-ext4.BlockBytes, int64(len(rest)))), ext4.BlockBytes)
}

// readBlocks reads a directory that has blocks.
func (f *FS) readBlocks(n *Node, from int64, yield func(Entry, error) bool) {
	bs := int64(f.sb.BlockSize)
	if n.Size%bs != 0 && !yield(Entry{}, errs.E(errs.Corrupt, "inode %d: directory of %d bytes in blocks of %d", n.Ino, n.Size, bs)) {
		return
	}
	s := dirScan{fs: f, n: n, yield: yield}
	for seg, err := range f.segments(f.mapper(n), uint64(from/bs), uint64(n.Size/bs)) {
		switch {
		case err != nil:
			yield(Entry{}, err)
			return
		case seg.kind != Data:
			err := errs.E(errs.Corrupt, "inode %d: directory with a hole of %d blocks at block %d", n.Ino, seg.length, seg.block)
			if !yield(Entry{}, err) {
				return
			}
		case !s.segment(seg, from):
			return
		}
	}
}

// dirScan hands on the entries of one directory.
type dirScan struct {
	fs    *FS
	n     *Node
	yield func(Entry, error) bool
	buf   []byte
}

// segment reads a run of blocks, from the given byte of the directory if that
// lies within. It returns false when nothing more is wanted.
func (s *dirScan) segment(seg segment, from int64) bool {
	bs := s.fs.im.blockSize
	for at := uint64(0); at < seg.length; {
		count := min(seg.length-at, uint64(max(1, dirPiece/bs)))
		if need := int(count) * int(bs); cap(s.buf) < need {
			s.buf = make([]byte, need)
		}
		piece := s.buf[:int64(count)*bs]
		if err := s.fs.im.read(piece, int64(seg.start+at)*bs); err != nil {
			if !s.yield(Entry{}, fmt.Errorf("inode %d: %w", s.n.Ino, err)) {
				return false
			}
		} else if !s.blocks(piece, int64(seg.block+at)*bs, from) {
			return false
		}
		at += count
	}
	return true
}

// blocks checks and scans the blocks in a piece that begins at the given byte
// of the directory.
func (s *dirScan) blocks(piece []byte, base, from int64) bool {
	bs := int(s.fs.im.blockSize)
	index := s.n.Flags&ext4.FlagIndex != 0
	for ; len(piece) > 0; piece, base = piece[bs:], base+int64(bs) {
		err := s.fs.sb.CheckDirBlock(piece[:bs], s.n.Seed, index, base == 0)
		if err != nil {
			if !s.fail(err, base) {
				return false
			}
			continue
		}
		if !s.entries(piece[:bs], int(max(from-base, 0)), base) {
			return false
		}
	}
	return true
}

// entries hands on the entries of b, from off, where b begins at the given
// byte of the directory.
func (s *dirScan) entries(b []byte, off int, base int64) bool {
	for off < len(b) {
		d, next, err := s.fs.sb.NextDirent(b, off)
		if err != nil {
			return s.fail(err, base) // what follows cannot be found
		}
		off = next
		if d.Ino == 0 || len(d.Name) <= 2 && (string(d.Name) == "." || string(d.Name) == "..") {
			continue
		}
		if !s.yield(Entry{Name: string(d.Name), Ino: d.Ino, Type: d.TypeOf(), next: base + int64(off)}, nil) {
			return false
		}
	}
	return true
}

func (s *dirScan) fail(err error, base int64) bool {
	return s.yield(Entry{}, fmt.Errorf("inode %d: directory block %d: %w", s.n.Ino, base/s.fs.im.blockSize, err))
}

// find returns the inode that a directory has under a name.
func (f *FS) find(dir *Node, name string) (ext4.Ino, error) {
	var damage error
	for e, err := range f.ReadDir(dir) {
		if err != nil {
			damage = err
			continue
		}
		if e.Name == name {
			return e.Ino, nil
		}
	}
	if damage != nil {
		return 0, damage // the name may be in what cannot be read
	}
	err := errs.E(errs.NotFound, "no such file or directory")
	if dir.Flags&ext4.FlagCasefold != 0 {
		return 0, errs.WithHint(err, "The directory is case-insensitive, but cowl wants names as they are listed.")
	}
	return 0, err
}
