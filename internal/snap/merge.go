package snap

import (
	"cmp"
	"fmt"
	"slices"

	"cowl/internal/errs"
	"cowl/internal/format/dmsnap"
)

// mergeBytes bounds how much one step of a merge copies, and so how long a
// write to one of its chunks may wait.
const mergeBytes = 4 << 20

// merge is a snapshot on its way back into its origin. The order of a step is
// the kernel's snapshot-merge target's: siblings first copy out what will be
// overwritten; the chunks go to the origin; the origin is flushed; only then
// the exceptions are cleared, from the last one backwards, so that the kernel
// or cowl can go on wherever the power failed. The kernel takes one run of
// adjacent chunks at a time; a step takes as much of an area as mergeBytes
// allows.
type merge struct {
	store *Store
	size  int64 // of the snapshot, bytes: what lies behind it is the origin's own

	// All guarded by Origin.gate. While a step is at work on a chunk, writes
	// to it wait for stepDone.
	active   []dmsnap.Exception // in ascending order of origin chunk
	stepDone chan struct{}

	// limbo has the chunks of a step whose last write failed: nobody knows
	// whether their exceptions are still on disk. Until a step succeeds they
	// are written on both devices, so that either answer is right.
	limbo []dmsnap.Exception
}

// busy reports whether a step is at work on a chunk of [off, end).
func (m *merge) busy(off, end int64) bool { return m.touches(m.active, off, end) }

// touches reports whether [off, end) has a byte of one of the chunks, which
// are in ascending order of origin chunk.
func (m *merge) touches(chunks []dmsnap.Exception, off, end int64) bool {
	if len(chunks) == 0 || off >= end {
		return false
	}
	i, _ := slices.BinarySearchFunc(chunks, m.store.chunkOf(off), func(e dmsnap.Exception, chunk uint64) int {
		return cmp.Compare(e.Old, chunk)
	})
	return i < len(chunks) && m.store.layout.Off(chunks[i].Old) < end
}

// nextRun returns the run that begins at off, at most to end, as the origin
// shows it.
func (m *merge) nextRun(off, end int64) run {
	if off >= m.size {
		return run{off: off, length: end - off}
	}
	return m.store.nextRun(off, min(end, m.size))
}

// StartMerge makes the origin show the store's content, that of a snapshot of
// size bytes, and MergeStep move it there. A snapshot of the store that is
// attached is detached in the same instant. One merge at a time; an invalid
// store cannot be merged.
//
// An origin that has grown since keeps what lies behind the snapshot's end.
// The last chunk may reach beyond it; the kernel merges all of that chunk, and
// so what the origin held there when the chunk was copied.
func (o *Origin) StartMerge(s *Store, size int64) error {
	if err := o.fits(s, size); err != nil {
		return fmt.Errorf("merge: %w", err)
	}
	o.commit.drain() // most of it while others go on
	o.gate.Lock()
	defer o.gate.Unlock()
	o.commit.drain()                // chunks to merge have nothing staged from now on
	if err := s.err(); err != nil { // it may have overflowed just now
		return errs.E(errs.Conflict, "merge: %w", err)
	}
	if o.merge != nil {
		return errs.E(errs.Conflict, "the origin has a merging snapshot already")
	}
	if n := o.attached(s); n != nil {
		o.drop(n)
	}
	o.merge = &merge{store: s, size: size}
	return nil
}

// MergeStep merges one batch of exceptions and returns how many are left. At
// none it is time for FinishMerge. After an error nothing is lost and the
// merge can go on, by a further call or after a restart. Calls must not
// overlap.
func (o *Origin) MergeStep() (left int, err error) {
	o.gate.Lock()
	m := o.merge
	o.gate.Unlock()
	if m == nil {
		return 0, errs.E(errs.Conflict, "no snapshot is being merged")
	}
	s := m.store
	first, err := s.mergeArea()
	if err == nil && first < s.used {
		err = o.mergeEntries(m, first)
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

// mergeArea goes back to the last area with exceptions and returns the first
// entry that the next step takes; all to the end of the area go with it.
func (s *Store) mergeArea() (first int, err error) {
	if s.used == 0 && s.areaNo > 0 {
		if _, err := s.dev.ReadAt(s.area, s.layout.Off(s.layout.AreaChunk(s.areaNo-1))); err != nil {
			return 0, fmt.Errorf("read exception area %d: %w", s.areaNo-1, err)
		}
		s.mu.Lock()
		s.areaNo, s.used = s.areaNo-1, dmsnap.Used(s.area)
		s.mu.Unlock()
	}
	return max(0, s.used-int(max(1, mergeBytes/s.layout.ChunkBytes))), nil
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
	slices.SortFunc(entries, func(a, b dmsnap.Exception) int { return cmp.Compare(a.Old, b.Old) })
	o.beginStep(m, entries)
	if err := o.copyBack(m, entries); err != nil {
		o.endStep(m, false, false)
		return err
	}
	err := s.clearEntries(first)
	o.endStep(m, err == nil, err != nil)
	return err
}

func (s *Store) lookup(old uint64) (uint64, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.index.get(old)
}

// beginStep waits for the requests in flight and makes those to come wait if
// they touch the step's chunks.
func (o *Origin) beginStep(m *merge, entries []dmsnap.Exception) {
	o.gate.Lock()
	defer o.gate.Unlock()
	m.active, m.stepDone = entries, make(chan struct{})
}

func (o *Origin) endStep(m *merge, merged, unsure bool) {
	o.gate.Lock()
	defer o.gate.Unlock()
	if merged {
		m.store.mu.Lock()
		for _, e := range m.active {
			m.store.index.remove(e.Old)
		}
		m.store.mu.Unlock()
		m.limbo = nil
	}
	if unsure {
		m.limbo = m.active
	}
	m.active = nil
	close(m.stepDone)
}

// copyBack copies the chunks of entries, ascending by origin chunk, to the
// origin, and makes them durable. Siblings copy out first, all in one batch.
func (o *Origin) copyBack(m *merge, entries []dmsnap.Exception) error {
	o.gate.RLock()
	defer o.gate.RUnlock()
	runs := m.runs(entries)
	reqs := make([]*request, len(runs))
	for i, r := range runs {
		reqs[i] = &request{change: change{op: opCopyOut, off: r.off, length: r.length}}
	}
	if err := o.commit.submitAll(reqs); err != nil {
		return err
	}
	if err := o.commit.wait(reqs...); err != nil {
		return err
	}
	buf := make([]byte, min(pieceBytes, mergeBytes, int64(len(entries))*m.store.layout.ChunkBytes))
	for _, r := range runs {
		for done := int64(0); done < r.length; done += int64(len(buf)) {
			piece := buf[:min(int64(len(buf)), r.length-done)]
			if _, err := m.store.dev.ReadAt(piece, r.cow+done); err != nil {
				return fmt.Errorf("read the COW device: %w", err)
			}
			if _, err := o.dev.WriteAt(piece, r.off+done); err != nil {
				return fmt.Errorf("write the origin: %w", err)
			}
		}
	}
	return o.dev.Flush()
}

// runs joins entries that lie next to each other on both devices.
func (m *merge) runs(entries []dmsnap.Exception) []run {
	l := m.store.layout
	var runs []run
	for i, e := range entries {
		if i > 0 && e.Old == entries[i-1].Old+1 && e.New == entries[i-1].New+1 {
			runs[len(runs)-1].length += l.ChunkBytes
		} else {
			runs = append(runs, run{off: l.Off(e.Old), length: l.ChunkBytes, excepted: true, cow: l.Off(e.New)})
		}
	}
	for i := range runs { // the snapshot's last chunk may be short
		runs[i].length = min(runs[i].length, m.size-runs[i].off)
	}
	return runs
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

// FinishMerge ends a merge that has no exceptions left: from now on the
// origin is a plain device again, and the store of no more use.
func (o *Origin) FinishMerge() error {
	o.gate.Lock()
	defer o.gate.Unlock()
	switch {
	case o.merge == nil:
		return errs.E(errs.Conflict, "no snapshot is being merged")
	case o.merge.store.Count() > 0:
		return errs.E(errs.Conflict, "%d exceptions are still to be merged", o.merge.store.Count())
	}
	o.merge = nil
	return nil
}
