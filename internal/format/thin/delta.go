package thin

import "iter"

// Difference is a block that two thin volumes show different data blocks at.
type Difference struct {
	Block    uint64
	From, To *Mapping // nil where it is not mapped; valid until the walk goes on
}

// Delta walks the blocks in which two thin volumes differ, in ascending order. A
// data block that both map shows the same in both: the kernel writes to one that
// is shared only as a copy.
//
// What lies below a node that is in both trees is not read. So it takes reads in
// proportion to what differs, not to what is mapped.
func (m *Metadata) Delta(from, to uint64) iter.Seq2[Difference, error] {
	return func(yield func(Difference, error) bool) {
		if err := m.delta(from, to, func(d Difference) bool { return yield(d, nil) }); err != nil {
			yield(Difference{}, err)
		}
	}
}

func (m *Metadata) delta(from, to uint64, yield func(Difference) bool) error {
	var side [2]*cursor
	for i, id := range []uint64{from, to} {
		t, err := m.mappings(id)
		if err != nil {
			return err
		}
		side[i] = t.cursor()
	}
	for a, b := side[0], side[1]; !a.done || !b.done; {
		switch {
		case a.sameNode(b):
			a.next()
			b.next()
		case a.comesFirst(b):
			if err := a.descend(); err != nil {
				return err
			}
		case b.comesFirst(a):
			if err := b.descend(); err != nil {
				return err
			}
		default:
			if more, err := m.entries(a, b, yield); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// sameNode reports whether two cursors stand before one node: then all below it
// is the same, and nothing before it is left.
func (c *cursor) sameNode(o *cursor) bool {
	return !c.done && !o.done && c.pending && o.pending && c.block == o.block
}

// comesFirst reports whether the node that a cursor stands before has to be read
// next: it may have keys below the other one's. Of two that begin with the same
// key the higher one is read first, since the other may be below it.
func (c *cursor) comesFirst(o *cursor) bool {
	switch {
	case c.done || !c.pending:
		return false
	case o.done || c.low < o.low:
		return true
	}
	return c.low == o.low && (!o.pending || c.level >= o.level)
}

// entries handles the entry with the lower key, or both if it is one key. It
// reports whether the walk goes on.
func (m *Metadata) entries(a, b *cursor, yield func(Difference) bool) (more bool, err error) {
	var d Difference
	use := func(c *cursor) (*Mapping, error) {
		p, err := m.mapping(c.value())
		d.Block = c.low
		c.next()
		return &p, err
	}
	isA, isB := !a.done && (b.done || a.low <= b.low), !b.done && (a.done || b.low <= a.low)
	if isA {
		if d.From, err = use(a); err != nil {
			return false, err
		}
	}
	if isB {
		if d.To, err = use(b); err != nil {
			return false, err
		}
	}
	if isA && isB && d.From.Data == d.To.Data {
		return true, nil
	}
	return yield(d), nil
}
