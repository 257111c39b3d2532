package thin

const (
	nodeHeader = 32 // bytes
	keySize    = 8

	internalNode = 1 << 0
	leafNode     = 1 << 1

	// Sizes of values, bytes. An internal node's are block numbers.
	rootSize    = 8
	mappingSize = 8
	detailsSize = 24

	// maxHeight bounds the nodes from a root to a leaf. Nodes have room for at
	// least 126 entries and are a third full, so that a tree of all keys has 13.
	maxHeight = 16
)

// node is a block of a tree, checked. Its keys ascend.
type node struct {
	at        uint64 // its block
	b         []byte
	leaf      bool
	count     int
	max       int // entries that there is room for: values lie behind so many keys
	valueSize int
}

// decodeNode checks the node that was read from block at.
func decodeNode(b []byte, at uint64) (node, error) {
	if len(b) < BlockSize {
		return node{}, corrupt("node of %d bytes", len(b))
	}
	if got, want := checksum(b, nodeSalt), le.Uint32(b); got != want {
		return node{}, corrupt("the node at block %d has checksum %#08x, its content %#08x", at, want, got)
	}
	if n := le.Uint64(b[8:]); n != at {
		return node{}, corrupt("the node at block %d says that it is of block %d", at, n)
	}
	flags, count, most, size := le.Uint32(b[4:]), le.Uint32(b[16:]), le.Uint32(b[20:]), le.Uint32(b[24:])
	switch {
	case flags != internalNode && flags != leafNode:
		return node{}, corrupt("the node at block %d has flags %#x", at, flags)
	case count > most || size > BlockSize || uint64(most)*uint64(keySize+size) > BlockSize-nodeHeader:
		return node{}, corrupt("the node at block %d has %d of %d entries with values of %d bytes", at, count, most, size)
	case flags == internalNode && (size != rootSize || count == 0):
		return node{}, corrupt("the inner node at block %d has %d entries with values of %d bytes", at, count, size)
	}
	n := node{at: at, b: b, leaf: flags == leafNode, count: int(count), max: int(most), valueSize: int(size)}
	for i := 1; i < n.count; i++ {
		if n.key(i) <= n.key(i-1) {
			return node{}, corrupt("the keys of the node at block %d do not ascend: %d follows %d", at, n.key(i), n.key(i-1))
		}
	}
	return n, nil
}

func (n *node) key(i int) uint64 { return le.Uint64(n.b[nodeHeader+i*keySize:]) }

func (n *node) value(i int) []byte {
	return n.b[nodeHeader+n.max*keySize+i*n.valueSize:][:n.valueSize]
}

// number is a value that is a number.
func (n *node) number(i int) uint64 { return le.Uint64(n.value(i)) }

// floor returns the last entry whose key is not above key, -1 if there is none.
func (n *node) floor(key uint64) int {
	low, high := 0, n.count
	for low < high {
		if mid := (low + high) / 2; n.key(mid) <= key {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low - 1
}
