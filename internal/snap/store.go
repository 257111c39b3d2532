package snap

import (
	"fmt"
	"sync"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/format/dmsnap"
)

// Store is an exception store on a COW device: which chunks of the origin it
// keeps, and where. It becomes part of an Origin by Attach or StartMerge; from
// then on the origin's committer alone allocates and commits.
type Store struct {
	dev    block.Device
	layout dmsnap.Layout
	chunks uint64 // whole chunks on dev, at most maxChunks

	// area is the image of the current area. It belongs to whoever commits.
	area []byte

	mu       sync.RWMutex // guards all below
	index    index
	areaNo   uint64 // the current area
	used     int    // entries in it
	next     uint64 // the chunk to allocate next
	limit    uint64 // chunks that count as room, see Limit
	invalid  bool
	unmarked bool // invalid, but the disk does not say so yet
	failed   bool // a merge step failed
	reason   string
	mark     int64  // bytes allocated from which on reached is called, see Watch
	reached  func() // nil if nobody watches
	lost     func(why string)
}

// maxChunks is how many chunks of a COW device are used: the index has 32 bits
// for each. With the smallest chunks of LVM that is 16 TiB.
const maxChunks = 1 << 32

// Options is how Open treats a COW device.
type Options struct {
	// ChunkBytes is the chunk size of a store that was never used. One that
	// was used says its own, as for the kernel.
	ChunkBytes int64
	// ReadOnly leaves the device untouched.
	ReadOnly bool
}

// Usage is what dm-snapshot's status line reports, in bytes.
type Usage struct {
	Allocated int64 // header, metadata and data
	Total     int64 // of the COW device
	Metadata  int64 // header and areas
	Invalid   bool
	// MergeFailed is set by a merge step that failed; the merge goes on at the
	// next activation.
	MergeFailed bool
	Reason      string // why it is invalid or failed, for people
}

// Format writes an empty store: area 0, then the header, which is what makes
// it a store. Nothing else of the device is touched.
func Format(cow block.Device, chunkBytes int64) error {
	if err := dmsnap.CheckChunk(chunkBytes); err != nil {
		return err
	}
	l := dmsnap.Layout{ChunkBytes: chunkBytes}
	if l.Chunks(cow.Size()) < 3 {
		return errs.E(errs.NoSpace, "a COW device of %d bytes holds no snapshot: 3 chunks of %d bytes is the least", cow.Size(), chunkBytes)
	}
	header := make([]byte, chunkBytes)
	copy(header, dmsnap.Header{Valid: true, ChunkBytes: chunkBytes}.Encode())
	if err := cow.WriteZeroes(l.Off(l.AreaChunk(0)), chunkBytes); err != nil {
		return fmt.Errorf("format exception store: %w", err)
	}
	if err := cow.Flush(); err != nil {
		return fmt.Errorf("format exception store: %w", err)
	}
	if _, err := cow.WriteAt(header, 0); err != nil {
		return fmt.Errorf("format exception store: %w", err)
	}
	if err := cow.Flush(); err != nil {
		return fmt.Errorf("format exception store: %w", err)
	}
	return nil
}

// Open loads a store. A device that was never used as one (its magic is zero)
// is formatted, as the kernel does on first activation. A store that was
// invalidated opens, and reports itself Invalid. Bytes that cannot be a store
// are errs.Corrupt.
func Open(cow block.Device, o Options) (*Store, error) {
	b := make([]byte, dmsnap.HeaderSize)
	if cow.Size() < int64(len(b)) {
		return nil, errs.E(errs.Corrupt, "open exception store: the COW device has %d bytes", cow.Size())
	}
	if _, err := cow.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("read exception store header: %w", err)
	}
	h, isNew, err := dmsnap.DecodeHeader(b)
	switch {
	case err != nil:
		return nil, err
	case isNew:
		h = dmsnap.Header{Valid: true, ChunkBytes: o.ChunkBytes}
		if err := dmsnap.CheckChunk(h.ChunkBytes); err != nil {
			return nil, err
		}
	}
	s := &Store{dev: cow, layout: dmsnap.Layout{ChunkBytes: h.ChunkBytes}, next: dmsnap.FirstData, limit: maxChunks}
	s.measure()
	s.area = make([]byte, h.ChunkBytes)
	switch {
	case isNew && o.ReadOnly:
		return s, nil
	case isNew:
		return s, Format(cow, h.ChunkBytes)
	case !h.Valid:
		s.invalid, s.reason = true, "it overflowed or lost its COW device earlier"
		// Who wrote that may have been killed, or failed to flush it: before the
		// origin is written it is written again.
		s.unmarked = !o.ReadOnly
		return s, nil
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	if o.ReadOnly {
		return s, nil
	}
	if err := s.clearTail(); err != nil {
		return nil, err
	}
	// The same holds for exceptions: no write may rely on one that is not durable.
	if err := cow.Flush(); err != nil {
		return nil, fmt.Errorf("flush exception store: %w", err)
	}
	return s, nil
}

// clearTail zeroes what stands behind the current area's terminator. A power
// cut in the middle of an area write can leave entries there that no reader
// sees, until later entries fill the gap and make them count: then they would
// point to chunks that have been given to others.
func (s *Store) clearTail() error {
	tail := s.area[s.used*dmsnap.EntrySize:]
	dirty := false
	for i, b := range tail {
		if b != 0 {
			tail[i], dirty = 0, true
		}
	}
	if !dirty {
		return nil
	}
	if _, err := s.dev.WriteAt(s.area, s.layout.Off(s.layout.AreaChunk(s.areaNo))); err != nil {
		return fmt.Errorf("clear exception area %d behind its end: %w", s.areaNo, err)
	}
	if err := s.dev.Flush(); err != nil {
		return fmt.Errorf("clear exception area %d behind its end: %w", s.areaNo, err)
	}
	return nil
}

// ChunkBytes returns the chunk size in bytes.
func (s *Store) ChunkBytes() int64 { return s.layout.ChunkBytes }

// Usage returns the numbers of dm-snapshot's status line at this moment.
func (s *Store) Usage() Usage {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return Usage{
		Allocated:   s.layout.Off(s.next),
		Total:       s.dev.Size(),
		Metadata:    s.layout.Off(s.areaNo + 2),
		Invalid:     s.invalid,
		MergeFailed: s.failed,
		Reason:      s.reason,
	}
}

// Grow tells the store that its COW device has been extended.
func (s *Store) Grow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.measure()
}

// measure finds out how many chunks there are. The caller holds mu.
func (s *Store) measure() { s.chunks = min(s.layout.Chunks(s.dev.Size()), maxChunks) }

// total returns how many whole chunks the COW device has.
func (s *Store) total() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.chunks
}

// Count returns how many exceptions there are.
func (s *Store) Count() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.index.count
}

// err returns why the store cannot be used, nil if it can.
func (s *Store) err() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.invalid {
		return errs.E(errs.Other, "snapshot is invalid: %s", s.reason)
	}
	return nil
}

// wantsCommit reports whether a change of the origin concerns the store: it
// is valid, or invalid and the disk has to be told before the origin changes.
func (s *Store) wantsCommit() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return !s.invalid || s.unmarked
}

// invalidate makes the store unusable for good, on disk as well: the header
// with valid = 0 is durable when it returns nil. Only then may the origin be
// written without a copy: otherwise the store would come back after a restart
// as a valid one with wrong data.
func (s *Store) invalidate(reason string) error {
	s.mu.Lock()
	tell := s.lost
	if s.invalid {
		tell = nil
	} else {
		s.invalid, s.reason = true, reason
	}
	s.unmarked = true
	s.mu.Unlock()
	if tell != nil {
		tell(reason)
	}
	h := dmsnap.Header{ChunkBytes: s.layout.ChunkBytes}
	_, err := s.dev.WriteAt(h.Encode(), 0)
	if err == nil {
		err = s.dev.Flush()
	}
	if err != nil {
		return errs.WithHint(errs.E(errs.Other, "snapshot is invalid, and its COW device cannot be told so: %w", err),
			"Remove the snapshot to let its origin be written again.")
	}
	s.mu.Lock()
	s.unmarked = false
	s.mu.Unlock()
	return nil
}

// OnInvalid has f called, with why, when the store becomes invalid. The commit
// waits for f, which must not wait for anything.
func (s *Store) OnInvalid(f func(why string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = f
}

// run is a stretch of the origin's bytes that lies in one piece.
type run struct {
	off, length int64
	excepted    bool
	cow         int64 // where on the COW device, if excepted
}

func (r run) end() int64 { return r.off + r.length }

// nextRun returns the run that begins at off, at most to end.
func (s *Store) nextRun(off, end int64) run {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := s.layout.ChunkBytes
	chunk := uint64(off / c)
	e, n, ok := s.index.find(chunk)
	if !ok || e.Old > chunk {
		if ok && e.Old <= uint64(end/c) {
			end = min(end, s.layout.Off(e.Old))
		}
		return run{off: off, length: end - off}
	}
	if n > uint64(end/c)-chunk { // Off would overflow for a long run at the end
		n = uint64(end/c) - chunk + 1
	}
	stop := s.layout.Off(e.Old + n)
	return run{off: off, length: min(stop, end) - off, excepted: true, cow: s.layout.Off(e.New) + off%c}
}

// covers reports whether every chunk of a range is excepted.
func (s *Store) covers(off, end int64) bool {
	for off < end {
		r := s.nextRun(off, end)
		if !r.excepted {
			return false
		}
		off = r.end()
	}
	return true
}
