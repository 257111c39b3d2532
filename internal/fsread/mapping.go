package fsread

import (
	"encoding/binary"
	"fmt"
	"iter"
	"sync/atomic"

	"cowl/internal/errs"
	"cowl/internal/format/ext4"
)

// Kind says what a part of a file is on the device.
type Kind uint8

// The kinds. Hole and Unwritten read as zeroes.
const (
	Data      Kind = iota
	Hole           // takes no space
	Unwritten      // takes space that was never written
)

// segment is a run of a file's blocks of one kind.
type segment struct {
	block, length uint64
	start         uint64 // on the device; 0 for holes
	kind          Kind
}

func (s segment) end() uint64 { return s.block + s.length }

// mapper knows where a file's blocks are. at returns a segment that contains
// the block and is as long as can be told without reading more.
type mapper interface {
	at(block uint64) (segment, error)
}

// mapper returns the map of an inode that has one.
func (f *FS) mapper(n *Node) mapper {
	if n.Flags&ext4.FlagExtents != 0 {
		return &extentMap{fs: f, n: n}
	}
	return &blockMap{fs: f, n: n}
}

// segments yields the segments of the blocks from first up to end, neighbours
// joined. A map that goes on beyond what the file system can hold is an error:
// in block maps, which do not say what they are, a block can stand for any
// number of others.
func (f *FS) segments(m mapper, first, end uint64) iter.Seq2[segment, error] {
	return func(yield func(segment, error) bool) {
		var last segment
		var mapped, steps uint64
		for at := first; at < end; {
			s, err := m.at(at)
			if err == nil {
				s = s.from(at, end)
				if s.kind == Data {
					mapped += s.length
				}
				// A step ends at a block of data, behind one, or at the end of
				// a block of pointers.
				if steps++; mapped > f.sb.Blocks || steps > 4*f.sb.Blocks {
					err = errs.E(errs.Corrupt, "the map has more blocks than the file system, which has %d", f.sb.Blocks)
				}
			}
			if err != nil {
				if last.length == 0 || yield(last, nil) {
					yield(segment{}, err)
				}
				return
			}
			at = s.end()
			if last.length > 0 && last.kind == s.kind && (s.kind == Hole || last.start+last.length == s.start) {
				last.length += s.length
				continue
			}
			if last.length > 0 && !yield(last, nil) {
				return
			}
			last = s
		}
		if last.length > 0 {
			yield(last, nil)
		}
	}
}

// from cuts a segment to what of it lies from block at up to end.
func (s segment) from(at, end uint64) segment {
	if skip := at - s.block; skip > 0 {
		s.block, s.length = at, s.length-skip
		if s.kind != Hole {
			s.start += skip
		}
	}
	s.length = min(s.length, end-s.block)
	return s
}

// extentMap is the map of a file with extents.
type extentMap struct {
	fs   *FS
	n    *Node
	leaf atomic.Pointer[extentLeaf] // the last one used
}

// extentLeaf is what an extent tree says of the blocks from lo up to hi.
type extentLeaf struct {
	lo, hi uint64
	node   ext4.ExtentNode // of depth 0; the zero node maps nothing
}

func (m *extentMap) at(block uint64) (segment, error) {
	l := m.leaf.Load()
	if l == nil || block < l.lo || block >= l.hi {
		var err error
		if l, err = m.descend(block); err != nil {
			return segment{}, fmt.Errorf("inode %d: %w", m.n.Ino, err)
		}
		m.leaf.Store(l)
	}
	lo, hi := l.lo, l.hi
	i := l.node.Find(block)
	if i >= 0 {
		e := l.node.Extent(i)
		if block < e.End() {
			kind := Data
			if e.Unwritten {
				kind = Unwritten
			}
			return segment{uint64(e.Block), uint64(e.Len), e.Start, kind}, nil
		}
		lo = e.End()
	}
	if i+1 < l.node.Len() {
		hi = uint64(l.node.Extent(i + 1).Block)
	}
	return segment{block: lo, length: hi - lo, kind: Hole}, nil
}

// descend finds the leaf for a block.
func (m *extentMap) descend(block uint64) (*extentLeaf, error) {
	const all = 1 << 32 // blocks of a file are numbered by 32 bits
	if block >= all {
		return &extentLeaf{lo: all, hi: 1 << 63}, nil
	}
	l := &extentLeaf{lo: 0, hi: all}
	var err error
	if l.node, err = m.fs.sb.DecodeExtentNode(m.n.Block[:], -1, l.lo, l.hi); err != nil {
		return nil, err
	}
	for l.node.Depth > 0 {
		i := l.node.Find(block)
		if i < 0 {
			return &extentLeaf{lo: l.lo, hi: uint64(l.node.Index(0).Block)}, nil
		}
		e := l.node.Index(i)
		if i+1 < l.node.Len() {
			l.hi = uint64(l.node.Index(i + 1).Block)
		}
		l.lo = uint64(e.Block)
		if l.node, err = m.child(e.Node, l.node.Depth-1, l.lo, l.hi); err != nil {
			return nil, fmt.Errorf("block %d: %w", e.Node, err)
		}
	}
	return l, nil
}

// child reads a node.
func (m *extentMap) child(number uint64, depth int, lo, hi uint64) (ext4.ExtentNode, error) {
	b, err := m.fs.block(number)
	if err != nil {
		return ext4.ExtentNode{}, err
	}
	if err := m.fs.sb.CheckExtentBlock(b, m.n.Seed); err != nil {
		return ext4.ExtentNode{}, err
	}
	return m.fs.sb.DecodeExtentNode(b, depth, lo, hi)
}

// blockMap is the map of a file as in ext2: the numbers of the first blocks
// are in the inode, those of others in blocks, in blocks of such blocks, and
// in blocks of these.
type blockMap struct {
	fs   *FS
	n    *Node
	leaf atomic.Pointer[pointers] // the last one used
}

// pointers are the numbers of the blocks from lo up to hi.
type pointers struct {
	lo, hi uint64
	b      []byte // 4 bytes each; nil: all of them are holes
}

const directBlocks = 12

func (m *blockMap) at(block uint64) (segment, error) {
	l := m.leaf.Load()
	if l == nil || block < l.lo || block >= l.hi {
		var err error
		if l, err = m.find(block); err != nil {
			return segment{}, fmt.Errorf("inode %d: %w", m.n.Ino, err)
		}
		m.leaf.Store(l)
	}
	if l.b == nil {
		return segment{block: l.lo, length: l.hi - l.lo, kind: Hole}, nil
	}
	s, err := l.run(block)
	if err == nil && s.kind == Data && !m.fs.sb.Has(s.start, s.length) {
		err = errs.E(errs.Corrupt, "inode %d: %d blocks at block %d, the file system has %d", m.n.Ino, s.length, s.start, m.fs.sb.Blocks)
	}
	return s, err
}

// run returns the run of holes or of blocks in a row that begins at the block.
func (l *pointers) run(block uint64) (segment, error) {
	number := func(i uint64) uint64 { return uint64(binary.LittleEndian.Uint32(l.b[4*i:])) }
	first, n := block-l.lo, uint64(1)
	s := segment{block: block, start: number(first), kind: Data}
	step := uint64(1)
	if s.start == 0 {
		s.kind, step = Hole, 0
	}
	for block+n < l.hi && number(first+n) == s.start+n*step {
		n++
	}
	s.length = n
	return s, nil
}

// find returns the pointers for a block.
func (m *blockMap) find(block uint64) (*pointers, error) {
	if block < directBlocks {
		return &pointers{lo: 0, hi: directBlocks, b: m.n.Block[:4*directBlocks]}, nil
	}
	per := uint64(m.fs.sb.BlockSize / 4)
	lo, span := uint64(directBlocks), per
	for level := range 3 {
		if block < lo+span {
			root := binary.LittleEndian.Uint32(m.n.Block[4*(directBlocks+level):])
			return m.descend(uint64(root), lo, span, block)
		}
		lo, span = lo+span, span*per
	}
	return &pointers{lo: lo, hi: 1 << 63}, nil
}

// descend follows the pointers from the block with the given number, which is
// responsible for span blocks from lo.
func (m *blockMap) descend(number, lo, span, block uint64) (*pointers, error) {
	per := uint64(m.fs.sb.BlockSize / 4)
	for {
		if number == 0 {
			return &pointers{lo: lo, hi: lo + span}, nil
		}
		b, err := m.fs.block(number)
		if err != nil {
			return nil, err
		}
		if span == per {
			return &pointers{lo: lo, hi: lo + span, b: b}, nil
		}
		span /= per
		i := (block - lo) / span
		lo += i * span
		number = uint64(binary.LittleEndian.Uint32(b[4*i:]))
	}
}
