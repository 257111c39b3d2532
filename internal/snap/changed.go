package snap

import (
	"iter"

	"cowl/internal/errs"
)

// Range is a stretch of the origin's bytes.
type Range struct{ Off, Len int64 }

// exceptedBatch is how many ranges are gathered under a store's lock at a time:
// commits, and with them every request, wait for it no longer than that.
const exceptedBatch = 1024

// Excepted walks what the store keeps, in ascending order: stretches of whole
// chunks, also of the last chunk of an origin that ends within it. Neighbours may be told apart.
//
// All exceptions are there that were committed before the walk; of those that
// come meanwhile some may be. The walk ends with an error if the store is
// invalid, also if it became so on the way: what an invalid store keeps is not
// all that has changed.
func (s *Store) Excepted() iter.Seq2[Range, error] {
	return func(yield func(Range, error) bool) {
		batch := make([]Range, 0, exceptedBatch)
		for next, more := uint64(0), true; more; {
			batch, next, more = s.gather(batch[:0], next)
			for _, r := range batch {
				if !yield(r, nil) {
					return
				}
			}
		}
		if err := s.err(); err != nil {
			yield(Range{}, err)
		}
	}
}

// gather returns the first ranges at or above a chunk, and where to go on.
func (s *Store) gather(batch []Range, from uint64) (_ []Range, next uint64, more bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for len(batch) < cap(batch) {
		e, n, ok := s.index.find(from)
		if !ok {
			return batch, from, false
		}
		batch = append(batch, Range{s.layout.Off(e.Old), s.layout.Off(n)})
		from = e.Old + n
	}
	return batch, from, true
}

// Changed walks the stretches in which the snapshot may differ from its
// origin, as the two were when the walk began: chunks of the origin that were
// written to since the snapshot was taken, acknowledged writes included, and chunks of
// the snapshot itself that were. What the origin has behind the snapshot's end is not in it.
//
// While another snapshot is being merged into the origin it is errs.Conflict:
// the origin shows merged chunks of which this snapshot's store knows
// nothing before they are written.
func (n *Snapshot) Changed() iter.Seq2[Range, error] {
	return func(yield func(Range, error) bool) {
		if err := n.origin.notMerging(); err != nil {
			yield(Range{}, err)
			return
		}
		n.origin.Settle()
		if err := n.usable(); err != nil {
			yield(Range{}, err)
			return
		}
		for r, err := range n.store.Excepted() {
			r.Len = min(r.Len, n.size-r.Off)
			if !yield(r, err) {
				return
			}
		}
	}
}

// notMerging is errs.Conflict while a snapshot is being merged into the origin.
func (o *Origin) notMerging() error {
	o.gate.RLock()
	defer o.gate.RUnlock()
	if o.merge != nil {
		return errs.E(errs.Conflict, "a snapshot is being merged into the origin: what differs is not known until that is done")
	}
	return nil
}
