package thin

import "cowl/internal/errs"

// tree is a B-tree, of whose leaves all are equally far from the root. A key in an
// inner node is a lower bound of the keys below it, and the next one lies above
// them.
type tree struct {
	m         *Metadata
	root      uint64
	valueSize int // of leaves, bytes
	height    int // inner nodes above a leaf
}

// openTree finds out how high a tree is.
func (m *Metadata) openTree(root uint64, valueSize int) (tree, error) {
	t := tree{m: m, root: root, valueSize: valueSize}
	for at := root; ; t.height++ {
		n, err := m.node(at)
		if err != nil || n.leaf {
			return t, err
		}
		if t.height == maxHeight {
			return t, corrupt("the tree at block %d is higher than %d", root, maxHeight)
		}
		at = n.number(0)
	}
}

// cursor walks a tree in the order of keys. It stands before a node that has not
// been read, and may be skipped, or at an entry of a leaf.
type cursor struct {
	tree
	done bool
	path []step // from the root to where it stands

	pending bool   // it stands before a node
	block   uint64 // of that node
	low     uint64 // the key of the entry; of a node, a bound below its keys
	last    uint64 // a bound above the keys of a node, inclusive
	level   int    // of the node: 0 is a leaf
}

// step is a node on the path, and where in it.
type step struct {
	n    node
	i    int
	last uint64
}

func (t tree) cursor() *cursor {
	return &cursor{tree: t, pending: true, block: t.root, last: ^uint64(0), level: t.height}
}

// descend reads the node that the cursor stands before, and goes to its first
// entry.
func (c *cursor) descend() error {
	n, err := c.m.node(c.block)
	if err != nil {
		return err
	}
	switch {
	case n.leaf != (c.level == 0):
		return corrupt("the node at block %d does not belong %d above the leaves", n.at, c.level)
	case n.leaf && n.valueSize != c.valueSize:
		return corrupt("the leaf at block %d has values of %d bytes, want %d", n.at, n.valueSize, c.valueSize)
	case n.count == 0 && len(c.path) > 0:
		return corrupt("the leaf at block %d is empty", n.at)
	case n.count == 0:
		c.done = true
		return nil
	case n.key(0) < c.low || n.key(n.count-1) > c.last:
		return corrupt("the node at block %d has keys from %d to %d, those above it say %d to %d", n.at, n.key(0), n.key(n.count-1), c.low, c.last)
	}
	c.path = append(c.path, step{n: n, last: c.last})
	c.place()
	return nil
}

// place goes to the entry that the end of the path names.
func (c *cursor) place() {
	s := &c.path[len(c.path)-1]
	c.low, c.pending = s.n.key(s.i), !s.n.leaf
	if !c.pending {
		return
	}
	c.block, c.level, c.last = s.n.number(s.i), c.height-len(c.path), s.last
	if s.i+1 < s.n.count {
		c.last = s.n.key(s.i+1) - 1
	}
}

// next goes on behind where the cursor stands: a node is skipped with all that is
// below it.
func (c *cursor) next() {
	for len(c.path) > 0 {
		s := &c.path[len(c.path)-1]
		if s.i++; s.i < s.n.count {
			c.place()
			return
		}
		c.path = c.path[:len(c.path)-1]
	}
	c.done = true
}

// value is that of the entry that the cursor stands at.
func (c *cursor) value() []byte {
	s := &c.path[len(c.path)-1]
	return s.n.value(s.i)
}

// entry goes to the next entry, from a node down; false behind the last.
func (c *cursor) entry() (bool, error) {
	for !c.done && c.pending {
		if err := c.descend(); err != nil {
			return false, err
		}
	}
	return !c.done, nil
}

// find returns the value of a key. errs.NotFound: there is none.
func (t tree) find(key uint64) ([]byte, error) {
	c := t.cursor()
	for c.pending {
		if err := c.descend(); err != nil {
			return nil, err
		}
		if c.done {
			break
		}
		s := &c.path[len(c.path)-1]
		if s.i = s.n.floor(key); s.i < 0 {
			break
		}
		if c.place(); !c.pending && c.low == key {
			return c.value(), nil
		}
	}
	return nil, errs.E(errs.NotFound, "no key %d", key)
}
