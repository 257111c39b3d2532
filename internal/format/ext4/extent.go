package ext4

const (
	extentMagic     = 0xf30a
	extentEntry     = 12
	extentHeader    = 12
	maxExtentDepth  = 5
	maxWritten      = 1 << 15 // longer extents are unwritten ones, by that much
	extentTailBytes = 4
)

// Extent maps a run of a file's blocks.
type Extent struct {
	Block     uint32 // the first, in the file
	Len       uint32 // blocks, not 0
	Start     uint64 // the first, on the device
	Unwritten bool   // allocated, and reads as zeroes
}

// End is the first block of the file after the extent.
func (e Extent) End() uint64 { return uint64(e.Block) + uint64(e.Len) }

// ExtentIndex leads to the node for the file's blocks from Block on.
type ExtentIndex struct {
	Block uint32
	Node  uint64 // a block on the device
}

// ExtentNode is a node of an extent tree: extents if Depth is 0, indexes
// otherwise. It refers to the bytes it was decoded from.
type ExtentNode struct {
	Depth int
	n     int
	b     []byte // the entries
}

// DecodeExtentNode decodes a node for the blocks from lo up to hi of a file: a
// whole block, or the root in Inode.Block. depth is what its parent's promises,
// -1 for a root. Entries are in order, do not overlap, and lie in that range,
// so that nobody who follows them can go round in circles.
func (sb *Superblock) DecodeExtentNode(b []byte, depth int, lo, hi uint64) (ExtentNode, error) {
	if len(b) < extentHeader || le.Uint16(b) != extentMagic {
		return ExtentNode{}, corrupt("no extent node")
	}
	entries, most, found := int(le.Uint16(b[2:])), int(le.Uint16(b[4:])), int(le.Uint16(b[6:]))
	root := depth < 0
	switch {
	case root && found > maxExtentDepth:
		return ExtentNode{}, corrupt("extent tree of depth %d", found)
	case !root && found != depth:
		return ExtentNode{}, corrupt("extent node of depth %d below one of depth %d", found, depth+1)
	case entries > most || extentHeader+most*extentEntry > len(b):
		return ExtentNode{}, corrupt("extent node with %d of %d entries in %d bytes", entries, most, len(b))
	case entries == 0 && (!root || found > 0):
		return ExtentNode{}, corrupt("extent node without entries")
	}
	n := ExtentNode{Depth: found, n: entries, b: b[extentHeader : extentHeader+entries*extentEntry]}
	return n, n.validate(sb, lo, hi)
}

// CheckExtentBlock checks the checksum of a node that is a block of its own.
// The header's count has to be decoded before.
func (sb *Superblock) CheckExtentBlock(b []byte, seed uint32) error {
	if !sb.MetadataCsum() {
		return nil
	}
	if len(b) < extentHeader || extentHeader+int(le.Uint16(b[4:]))*extentEntry > len(b)-extentTailBytes {
		return corrupt("extent node without room for its checksum")
	}
	at := extentHeader + int(le.Uint16(b[4:]))*extentEntry
	if want, got := CRC32C(seed, b[:at]), le.Uint32(b[at:]); want != got {
		return corrupt("bad checksum of an extent node (want %#08x, got %#08x)", want, got)
	}
	return nil
}

func (n ExtentNode) validate(sb *Superblock, lo, hi uint64) error {
	for i := range n.n {
		var block, end, start uint64
		length := uint64(1)
		if n.Depth == 0 {
			e := n.Extent(i)
			block, end, start, length = uint64(e.Block), e.End(), e.Start, uint64(e.Len)
		} else {
			e := n.Index(i)
			block, end, start = uint64(e.Block), uint64(e.Block)+1, e.Node
		}
		if length == 0 || block < lo || end > hi {
			return corrupt("extent of %d blocks at block %d of the file, between %d and %d", length, block, lo, hi)
		}
		if !sb.Has(start, length) {
			return corrupt("extent of %d blocks at block %d, the file system has %d", length, start, sb.Blocks)
		}
		lo = end
	}
	return nil
}

// Has tells whether a run of blocks lies where files may have blocks.
func (sb *Superblock) Has(start, length uint64) bool {
	return start > uint64(sb.FirstDataBlock) && start < sb.Blocks && length <= sb.Blocks-start
}

// Len is the number of entries.
func (n ExtentNode) Len() int { return n.n }

// Extent decodes entry i of a leaf.
func (n ExtentNode) Extent(i int) Extent {
	b := n.b[i*extentEntry:]
	e := Extent{Block: le.Uint32(b), Len: uint32(le.Uint16(b[4:])), Start: join(uint32(le.Uint16(b[6:])), le.Uint32(b[8:]))}
	if e.Len > maxWritten {
		e.Len -= maxWritten
		e.Unwritten = true
	}
	return e
}

// Index decodes entry i of an inner node.
func (n ExtentNode) Index(i int) ExtentIndex {
	b := n.b[i*extentEntry:]
	return ExtentIndex{Block: le.Uint32(b), Node: join(uint32(le.Uint16(b[8:])), le.Uint32(b[4:]))}
}

// Find returns the last entry that begins at or before the block, -1 if all
// begin after it.
func (n ExtentNode) Find(block uint64) int {
	lo, hi := 0, n.n
	for lo < hi {
		mid := (lo + hi) / 2
		if uint64(le.Uint32(n.b[mid*extentEntry:])) <= block {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo - 1
}
