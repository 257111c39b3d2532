package fsread

import (
	"bytes"
	"cmp"
	"context"
	"iter"
	"slices"

	"cowl/internal/errs"
	"cowl/internal/format/ext4"
)

// Range is a stretch of a device, in bytes.
type Range struct{ Off, Len int64 }

// Ranges are stretches in ascending order, none overlapping the next.
type Ranges []Range

// Overlaps tells whether one of the ranges has a byte of the stretch.
func (rs Ranges) Overlaps(off, length int64) bool {
	i, _ := slices.BinarySearchFunc(rs, off, func(r Range, off int64) int { return cmp.Compare(r.Off+r.Len, off+1) })
	return i < len(rs) && length > 0 && rs[i].Off < off+length
}

// Pair is two states of one file system, of which it is known in which bytes of
// their devices they may differ: two snapshots of a volume. From that follows
// which files cannot differ, without reading their content.
//
// Memory: a bit for each inode that may differ, and some bytes for a group of
// blocks that has inodes in use.
type Pair struct {
	a, b *FS
	// where is what may differ on the devices; each has its own journal beside it.
	where Ranges
	// looked is how many inodes at the beginning of a group were looked at. The
	// others are not in use; who comes to one all the same has to compare it.
	looked  map[uint32]uint32
	touched InoSet
}

// NewPair finds out which inodes may show something different in a and b,
// whose devices are the same outside of the ranges. It reads the inode tables of
// one, and of the other what may differ in them. The error is errs.Conflict if
// they are not states of one file system.
func NewPair(ctx context.Context, a, b *FS, where Ranges) (*Pair, error) {
	if !Kin(a, b) {
		return nil, errs.E(errs.Conflict, "not the same file system")
	}
	p := &Pair{a: a, b: b, where: where, looked: map[uint32]uint32{}, touched: InoSet{}}
	for g := range min(a.sb.Groups(), b.sb.Groups()) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err := p.group(uint32(g)); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Kin tells whether two file systems are states of one, so that an inode's number
// stands for the same file in both unless its generation differs.
func Kin(a, b *FS) bool {
	return a.sb.UUID == b.sb.UUID && a.sb.BlockSize == b.sb.BlockSize && a.sb.InodeSize == b.sb.InodeSize &&
		a.sb.InodesPerGroup == b.sb.InodesPerGroup && a.sb.DescSize == b.sb.DescSize
}

// Touched tells whether what an inode shows may differ: its metadata, its
// content, its entries.
func (p *Pair) Touched(ino ext4.Ino) bool {
	per := p.a.sb.InodesPerGroup
	at := uint32(ino) - 1
	return at%per >= p.looked[at/per] || p.touched.Has(ino)
}

// Differs tells whether a stretch may have other bytes in one of them.
func (p *Pair) Differs(off, length int64) bool {
	return p.where.Overlaps(off, length) || p.a.im.holds(off, length) || p.b.im.holds(off, length)
}

// holds tells whether the journal has a block of the stretch.
func (im *image) holds(off, length int64) bool {
	if len(im.blocks) == 0 {
		return false
	}
	i, _ := slices.BinarySearch(im.blocks, uint64(off/im.blockSize))
	return i < len(im.blocks) && int64(im.blocks[i])*im.blockSize < off+length
}

// pairWindow is how much of an inode table is compared at once, bytes. Inodes are
// powers of two, and smaller.
const pairWindow = 256 << 10

// group looks at the inodes of a block group. It leaves out one that was
// rearranged, or whose descriptor is damaged, which is found out by who asks for
// one of the inodes.
func (p *Pair) group(g uint32) error {
	da, errA := p.a.group(g)
	db, errB := p.b.group(g)
	if errA != nil || errB != nil || da.InodeTable != db.InodeTable {
		return nil
	}
	n := max(p.a.used(da), p.b.used(db))
	size := int64(p.a.sb.InodeSize)
	for at := int64(0); at < int64(n)*size; at += pairWindow {
		length := min(pairWindow, int64(n)*size-at)
		if err := p.window(g, int64(da.InodeTable)*p.a.im.blockSize+at, at, length); err != nil {
			return err
		}
	}
	if n > 0 {
		p.looked[g] = n
	}
	return nil
}

// used is how many inodes at the beginning of a group's table may be in use.
func (f *FS) used(d *ext4.Group) uint32 {
	switch {
	case f.sb.ROCompat&(ext4.ROCompatMetadataCsum|ext4.ROCompatGDTCsum) == 0:
		return f.sb.InodesPerGroup
	case d.Flags&ext4.GroupInodesUninit != 0:
		return 0
	}
	return f.sb.InodesPerGroup - min(d.UnusedInodes, f.sb.InodesPerGroup)
}

// window looks at a piece of a group's inode table, which is at off on the
// devices and at the given byte of the table.
func (p *Pair) window(g uint32, off, at, length int64) error {
	tableA, tableB := make([]byte, length), []byte(nil)
	if err := p.a.im.read(tableA, off); err != nil {
		return err
	}
	if p.Differs(off, length) {
		tableB = make([]byte, length)
		if err := p.b.im.read(tableB, off); err != nil {
			return err
		}
	}
	size := int64(p.a.sb.InodeSize)
	for i := int64(0); i+size <= length; i += size {
		ino := ext4.Ino(int64(g)*int64(p.a.sb.InodesPerGroup) + (at+i)/size + 1)
		raw := tableA[i : i+size]
		if tableB != nil && !bytes.Equal(raw, tableB[i:i+size]) || p.contentTouched(ino, raw) {
			p.touched.Add(ino)
		}
	}
	return nil
}

// contentTouched tells whether what belongs to an inode, whose bytes both have
// alike, may differ elsewhere. What cannot be read may.
func (p *Pair) contentTouched(ino ext4.Ino, raw []byte) bool {
	if raw[0] == 0 && raw[1] == 0 { // no mode: not in use
		return false
	}
	n, err := p.a.sb.DecodeInode(ino, raw)
	if err != nil || p.attrsTouched(n) {
		return true
	}
	t := n.Mode.Type()
	hasBlocks := t == ext4.TypeFile || t == ext4.TypeDir || t == ext4.TypeSymlink && !p.a.isFast(n)
	if !hasBlocks || n.Flags&ext4.FlagInline != 0 || n.Size == 0 {
		return false
	}
	touched, err := p.blocksTouched(n)
	return touched || err != nil
}

// attrsTouched is about the extended attributes outside of the inode.
func (p *Pair) attrsTouched(n *Node) bool {
	if n.AttrBlock == 0 && n.Attrs == nil {
		return false
	}
	bs := p.a.im.blockSize
	return p.a.sb.Incompat&ext4.IncompatEAInode != 0 || // values may be in inodes of their own
		n.AttrBlock != 0 && p.Differs(int64(n.AttrBlock)*bs, bs)
}

// blocksTouched walks the map of a file. One that is kept in blocks of its own
// may be another in b though the inode is the same.
func (p *Pair) blocksTouched(n *Node) (bool, error) {
	bs := p.a.im.blockSize
	end := (uint64(n.Size) + uint64(bs) - 1) / uint64(bs)
	inInode := p.a.inInode(n, end)
	if !inInode {
		if same, err := p.sameMap(n, end); err != nil || !same {
			return true, err
		}
	}
	for s, err := range p.a.segments(p.a.mapper(n), 0, end) {
		if err != nil || s.kind == Data && p.Differs(int64(s.start)*bs, int64(s.length)*bs) {
			return true, err
		}
	}
	return false, nil
}

// sameMap compares what both say of where a file's blocks are.
func (p *Pair) sameMap(n *Node, end uint64) (bool, error) {
	next, stop := iter.Pull2(p.b.segments(p.b.mapper(n), 0, end))
	defer stop()
	for s, err := range p.a.segments(p.a.mapper(n), 0, end) {
		if err != nil {
			return false, err
		}
		if other, err, ok := next(); err != nil || !ok || other != s {
			return false, err
		}
	}
	return true, nil
}

// inInode tells whether all of the map of a file is in its inode.
func (f *FS) inInode(n *Node, end uint64) bool {
	if n.Flags&ext4.FlagExtents == 0 {
		return end <= directBlocks
	}
	root, err := f.sb.DecodeExtentNode(n.Block[:], -1, 0, 1<<32)
	return err == nil && root.Depth == 0
}
