package snap

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/format/dmsnap"
)

// MergeStep merges the last exceptions of the store and returns how many are
// left. At none it is time for FinishMerge. After an error nothing is lost and
// the merge can go on, by a further call or after a restart. Calls must not
// overlap.
func (o *Origin) MergeStep() (left int, err error) {
	o.gate.RLock()
	m, most := o.merge, int64(0)
	if m != nil {
		most = m.stepBytes
	}
	o.gate.RUnlock()
	if m == nil {
		return 0, errs.E(errs.Conflict, "no snapshot is being merged")
	}
	s := m.store
	if err = s.mergeArea(); err == nil && s.used > 0 {
		err = o.mergeEntries(m, max(0, s.used-int(max(1, most/s.layout.ChunkBytes))))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = err != nil && LacksRoom(err) == nil
	if err != nil {
		s.reason = err.Error()
		return s.index.count, fmt.Errorf("merge snapshot: %w", err)
	}
	return s.index.count, nil
}

// mergeArea goes back to the last area with exceptions.
func (s *Store) mergeArea() error {
	if s.used > 0 || s.areaNo == 0 {
		return nil
	}
	if _, err := s.dev.ReadAt(s.area, s.layout.Off(s.layout.AreaChunk(s.areaNo-1))); err != nil {
		return fmt.Errorf("read exception area %d: %w", s.areaNo-1, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.areaNo, s.used = s.areaNo-1, dmsnap.Used(s.area)
	return nil
}

// mergeEntries merges the current area's entries from first on.
func (o *Origin) mergeEntries(m *merge, first int) error {
	s := m.store
	entries := make([]dmsnap.Exception, 0, s.used-first)
	for i := first; i < s.used; i++ {
		e := dmsnap.Entry(s.area, i)
		if now, ok := s.lookup(e.Old); !ok || now != e.New {
			return errs.E(errs.Corrupt, "exception area %d, entry %d changed since it was loaded", s.areaNo, i)
		}
		entries = append(entries, e)
	}
	// In the order of the COW device, where a commit puts neighbours of the origin
	// beside each other.
	slices.SortFunc(entries, func(a, b dmsnap.Exception) int { return cmp.Compare(a.New, b.New) })
	for piece := range slices.Chunk(entries, int(max(1, m.pieceBytes/s.layout.ChunkBytes))) {
		if err := o.mergePiece(m, piece); err != nil {
			return err
		}
	}
	if err := o.dev.Flush(); err != nil {
		return fmt.Errorf("flush the origin: %w", err)
	}
	if err := s.clearEntries(first); err != nil {
		return err
	}
	o.endStep(m, entries)
	return nil
}

func (s *Store) lookup(old uint64) (uint64, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.index.get(old)
}

// mergePiece copies a piece of a step to the origin.
func (o *Origin) mergePiece(m *merge, piece []dmsnap.Exception) error {
	byOld := slices.SortedFunc(slices.Values(piece), compareOld)
	o.beginPiece(m, byOld)
	err := o.copyBack(m, byOld)
	o.endPiece(m, err == nil)
	return err
}

func compareOld(a, b dmsnap.Exception) int { return cmp.Compare(a.Old, b.Old) }

// beginPiece waits for the requests in flight and makes those to come wait if
// they touch the chunks.
func (o *Origin) beginPiece(m *merge, byOld []dmsnap.Exception) {
	o.gate.Lock()
	defer o.gate.Unlock()
	m.active, m.copied = byOld, make(chan struct{})
}

func (o *Origin) endPiece(m *merge, copied bool) {
	o.gate.Lock()
	defer o.gate.Unlock()
	if copied {
		m.both = append(m.both, m.active...)
		slices.SortFunc(m.both, compareOld)
		m.both = slices.Compact(m.both)
	}
	m.active = nil
	close(m.copied)
}

// endStep takes a step's exceptions out of the index.
func (o *Origin) endStep(m *merge, entries []dmsnap.Exception) {
	o.gate.Lock()
	defer o.gate.Unlock()
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	for _, e := range entries {
		m.store.index.remove(e.Old)
	}
	m.both = nil // what an earlier step left is on disk again, since an area is written as a whole
}

// copyBack copies chunks, ascending by origin chunk, to the origin. Siblings
// copy out first, all in one batch.
func (o *Origin) copyBack(m *merge, byOld []dmsnap.Exception) error {
	o.gate.RLock()
	defer o.gate.RUnlock()
	var reqs []*request
	for _, r := range m.stretches(byOld) {
		reqs = append(reqs, &request{change: r})
	}
	if err := o.commit.submitAll(reqs); err != nil {
		return err
	}
	if err := o.commit.wait(reqs...); err != nil {
		return err
	}
	moves, err := m.read(byOld, o.commit.each)
	if err != nil {
		return fmt.Errorf("read the COW device: %w", err)
	}
	if err := applyAll(m.join(moves, o.dev.Caps().Zeroes), o.dev, o.commit.each); err != nil {
		return fmt.Errorf("write the origin: %w", err)
	}
	return nil
}

// stretches returns what the chunks, ascending by origin chunk, will overwrite,
// as changes that copy out.
func (m *merge) stretches(byOld []dmsnap.Exception) []change {
	var list []change
	for _, e := range byOld {
		off, end := m.bounds(e)
		if n := len(list); n > 0 && list[n-1].end() == off {
			list[n-1].length += end - off
		} else {
			list = append(list, change{op: opCopyOut, off: off, length: end - off})
		}
	}
	return list
}

// bounds returns the chunk's bytes on the origin; the snapshot's last chunk may
// be short.
func (m *merge) bounds(e dmsnap.Exception) (off, end int64) {
	off = m.store.layout.Off(e.Old)
	return off, min(off+m.store.layout.ChunkBytes, m.size)
}

// move is a chunk on its way to the origin: bytes of merge.buf.
type move struct {
	dmsnap.Exception
	pos int
}

// read reads the chunks into buf, in the order of the COW device and neighbours
// in one piece, and returns them in the order of the origin.
func (m *merge) read(byOld []dmsnap.Exception, each func(n int, do func(i int))) ([]move, error) {
	size := int(m.store.layout.ChunkBytes)
	m.buf = pageAligned(m.buf, len(byOld)*size)
	moves := make([]move, len(byOld))
	for i, e := range byOld {
		moves[i].Exception = e
	}
	slices.SortFunc(moves, func(a, b move) int { return cmp.Compare(a.New, b.New) })
	var firsts []int // of pieces
	for i := range moves {
		moves[i].pos = i * size
		if i == 0 || moves[i].New != moves[i-1].New+1 || (i-firsts[len(firsts)-1])*size >= pieceBytes {
			firsts = append(firsts, i)
		}
	}
	failed := make([]error, len(firsts))
	each(len(firsts), func(i int) {
		first, end := firsts[i], len(moves)
		if i+1 < len(firsts) {
			end = firsts[i+1]
		}
		_, failed[i] = m.store.dev.ReadAt(m.buf[first*size:end*size], m.store.layout.Off(moves[first].New))
	})
	slices.SortFunc(moves, func(a, b move) int { return cmp.Compare(a.Old, b.Old) })
	return moves, cmp.Or(failed...)
}

// join makes as few writes as possible of chunks in the order of the origin.
// With zeroes, what is zero becomes that, and so a hole.
func (m *merge) join(moves []move, zeroes bool) []change {
	m.joined = pageAligned(m.joined, len(m.buf))
	var list []change
	for i, free := 0, m.joined; i < len(moves); {
		off, end := m.bounds(moves[i].Exception)
		pos, whole, n := moves[i].pos, true, 1
		for ; i+n < len(moves) && moves[i+n].Old == moves[i].Old+uint64(n) && end-off < pieceBytes; n++ {
			whole = whole && moves[i+n].pos == pos+n*int(m.store.layout.ChunkBytes)
			_, end = m.bounds(moves[i+n].Exception)
		}
		var data []byte
		if whole {
			data = m.buf[pos:][:end-off]
		} else {
			data, free = free[:end-off], free[end-off:]
			for j, at := 0, 0; j < n; j++ {
				at += copy(data[at:], m.buf[moves[i+j].pos:][:m.store.layout.ChunkBytes])
			}
		}
		if c := (change{op: opWrite, off: off, length: end - off, data: data}); zeroes {
			list = c.sparse(list)
		} else {
			list = append(list, c)
		}
		i += n
	}
	return list
}

// sparse adds a write to a list, in parts: what is zero from one multiple of
// zeroBytes to another as zeroes, the rest as data.
func (c change) sparse(list []change) []change {
	for c.length > 0 {
		zero, end := c.zero(), c.off
		for end < c.end() && c.part(end, c.end()).zero() == zero {
			end = min(c.end(), (end/zeroBytes+1)*zeroBytes)
		}
		part := c.part(c.off, end)
		if zero {
			part.op, part.data = opZeroes, nil
		}
		list, c = append(list, part), c.part(end, c.end())
	}
	return list
}

// zeroBytes is what file systems make holes of.
const zeroBytes = 4096

var noData [zeroBytes]byte

// zero reports whether the change begins at a multiple of zeroBytes, with as
// many zeroes.
func (c change) zero() bool {
	return c.off%zeroBytes == 0 && c.length >= zeroBytes && bytes.Equal(c.data[:zeroBytes], noData[:])
}

// applyAll makes all changes on a device and returns the first's error that
// failed.
func applyAll(list []change, dev block.Device, each func(n int, do func(i int))) error {
	failed := make([]error, len(list))
	each(len(list), func(i int) { failed[i] = list[i].apply(dev) })
	return cmp.Or(failed...)
}

// clearEntries takes the current area's entries from first on off the disk.
func (s *Store) clearEntries(first int) error {
	merged := slices.Clone(s.area)
	clear(merged[first*dmsnap.EntrySize : s.used*dmsnap.EntrySize])
	if _, err := s.dev.WriteAt(merged, s.layout.Off(s.layout.AreaChunk(s.areaNo))); err != nil {
		return fmt.Errorf("write exception area %d: %w", s.areaNo, err)
	}
	if err := s.dev.Flush(); err != nil {
		return fmt.Errorf("write exception area %d: %w", s.areaNo, err)
	}
	s.area = merged
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = first
	// What the kernel reports while it merges: the place behind the last
	// exception, as if all had been allocated in order.
	s.next = s.layout.AreaChunk(s.areaNo) + uint64(first) + 1
	return nil
}
