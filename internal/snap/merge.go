package snap

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sync"

	"cowl/internal/errs"
	"cowl/internal/format/dmsnap"
)

const (
	// mergeBytes bounds what one step of a merge copies, and so what a power cut
	// makes it copy again, and what a flush of the origin has to write.
	mergeBytes = 32 << 20

	// mergePiece is how much of it is copied at a time. A write to one of those
	// chunks waits for so long; it waits for no flush.
	mergePiece = 4 << 20
)

// merge is a snapshot on its way back into its origin. The order of a step is
// the kernel's snapshot-merge target's: siblings first copy out what will be
// overwritten; the chunks go to the origin; the origin is flushed; only then
// the exceptions are cleared, from the last one backwards, so that the kernel
// or cowl can go on wherever the power failed. The kernel takes one run of
// adjacent chunks at a time, of scattered ones each by itself; a step takes as
// much of an area as mergeBytes allows.
type merge struct {
	store *Store
	size  int64 // of the snapshot, bytes: what lies behind it is the origin's own

	// All guarded by Origin.gate, in ascending order of origin chunk. While
	// active is copied, writes to it wait for copied.
	active []dmsnap.Exception
	copied chan struct{}

	// both has the chunks that the origin holds as well as the COW device: what
	// the step under way has copied, and what a step took whose last write
	// failed, so that nobody knows whether its exceptions are still on disk.
	// They are written on both devices, so that it does not matter which of
	// the two counts after a power cut.
	both []dmsnap.Exception

	// twice is held over a write to both: of two at one place, the same is the
	// last on either device. It is taken behind gate and before committer.mu.
	twice sync.Mutex

	stepBytes int64 // see LimitMergeStep; guarded by Origin.gate

	pieceBytes int64 // mergePiece, but for tests

	buf, joined []byte // of who makes a step
}

// busy reports whether a step is at work on a chunk of [off, end).
func (m *merge) busy(off, end int64) bool {
	return len(m.active) > 0 && m.next(m.active, off) < end
}

// next returns where the first of the chunks begins that ends behind off, or
// the largest number there is. The chunks are in ascending order.
func (m *merge) next(chunks []dmsnap.Exception, off int64) int64 {
	i, _ := slices.BinarySearchFunc(chunks, m.store.chunkOf(off), func(e dmsnap.Exception, chunk uint64) int {
		return cmp.Compare(e.Old, chunk)
	})
	if i == len(chunks) {
		return math.MaxInt64
	}
	return m.store.layout.Off(chunks[i].Old)
}

// onBoth reports whether the chunk at off is on both devices, and where the first
// begins behind it for which that is different, at most end.
func (m *merge) onBoth(off, end int64) (both bool, stop int64) {
	stop = m.next(m.both, off)
	if stop > off {
		return false, min(stop, end)
	}
	for stop < end && m.next(m.both, stop) == stop {
		stop += m.store.layout.ChunkBytes
	}
	return true, min(stop, end)
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
	o.merge = &merge{store: s, size: size, stepBytes: mergeBytes, pieceBytes: mergePiece}
	return nil
}

// LimitMergeStep bounds what a step copies, in bytes, to less than what it
// would be otherwise; to one chunk at least. It holds for the merge that is
// under way, from the next step on.
func (o *Origin) LimitMergeStep(bytes int64) {
	o.gate.Lock()
	defer o.gate.Unlock()
	if o.merge != nil {
		o.merge.stepBytes = min(bytes, mergeBytes)
	}
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
