package overlay

import (
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/format/dmsnap"
)

const (
	// publishEvery is how long exceptions may be in memory only. Whoever kills
	// the process loses no more than that; a client's flush does not wait for it.
	publishEvery = 5 * time.Second

	// maxHeld is how many areas are held back at most.
	maxHeld = 256
)

// ledger is the COW device as snap has it. It holds back the areas, in which
// exceptions are recorded, until publish: see the package comment. Everything
// else goes straight to the file.
type ledger struct {
	dev    block.Device
	layout dmsnap.Layout
	manual bool // no timer: for tests that count and repeat operations

	publishing sync.Mutex // held over the I/O of a publication

	mu     sync.Mutex
	held   map[uint64][]byte // images by number of area; one is replaced, never changed
	failed error             // of a publication: what was written before it may be lost
	timer  *time.Timer
}

func newLedger(dev block.Device, layout dmsnap.Layout, manual bool) *ledger {
	l := &ledger{dev: dev, layout: layout, manual: manual, held: map[uint64][]byte{}}
	l.timer = time.AfterFunc(math.MaxInt64, func() { _ = l.publish() }) // the next flush will tell
	return l
}

// part is a piece of a range that is an area's, or none's.
type part struct {
	off, end int64
	area     uint64 // its number
	isArea   bool
}

// parts cuts a range at the borders of areas.
func (l *ledger) parts(off, length int64) iter.Seq[part] {
	return func(yield func(part) bool) {
		size, stride := l.layout.ChunkBytes, int64(l.layout.AreaChunk(1)-l.layout.AreaChunk(0))
		for end := off + length; off < end; {
			p := part{off: off, end: end}
			k := max(0, (off/size-1)/stride) // the last area that begins before off, or the first
			start := l.layout.Off(l.layout.AreaChunk(uint64(k)))
			switch {
			case off < start:
				p.end = min(end, start)
			case off < start+size:
				p.end, p.area, p.isArea = min(end, start+size), uint64(k), true
			default:
				p.end = min(end, start+stride*size)
			}
			if !yield(p) {
				return
			}
			off = p.end
		}
	}
}

// ReadAt implements block.Device.
func (l *ledger) ReadAt(p []byte, off int64) (int, error) {
	n, err := l.dev.ReadAt(p, off)
	for part := range l.parts(off, int64(n)) {
		if image := l.image(part); image != nil {
			from := part.off - l.layout.Off(l.layout.AreaChunk(part.area))
			copy(p[part.off-off:part.end-off], image[from:])
		}
	}
	return n, err
}

func (l *ledger) image(p part) []byte {
	if !p.isArea {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[p.area]
}

// WriteAt implements block.Device.
func (l *ledger) WriteAt(p []byte, off int64) (int, error) {
	if err := block.CheckRange(off, int64(len(p)), l.dev.Size()); err != nil {
		return 0, err
	}
	for part := range l.parts(off, int64(len(p))) {
		b := p[part.off-off : part.end-off]
		if err := l.write(b, part); err != nil {
			return int(part.off - off), err
		}
	}
	return len(p), nil
}

func (l *ledger) write(b []byte, p part) error {
	switch {
	case p.isArea:
		return l.hold(b, p)
	case p.off < l.layout.ChunkBytes:
		// The header: snap says that the store is invalid. It is so for this
		// process, after an error. For the next one it is what was published:
		// the base has not changed, so that nothing in it is wrong.
		return nil
	}
	_, err := l.dev.WriteAt(b, p.off)
	return err
}

// hold keeps a part of an area back.
func (l *ledger) hold(b []byte, p part) error {
	start := l.layout.Off(l.layout.AreaChunk(p.area))
	l.mu.Lock()
	old := l.held[p.area]
	l.mu.Unlock()
	image := make([]byte, l.layout.ChunkBytes)
	if len(b) < len(image) {
		if old == nil {
			if _, err := l.dev.ReadAt(image, start); err != nil {
				return err
			}
		}
		copy(image, old)
	}
	copy(image[p.off-start:], b)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.held) == 0 && !l.manual {
		l.timer.Reset(publishEvery)
	}
	l.held[p.area] = image
	return nil
}

// crowded reports whether it is time to publish whoever waits for it.
func (l *ledger) crowded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.held) >= maxHeld
}

// Flush implements block.Device for snap, which orders its writes by it. What
// has to be in order here is in order in publish.
func (l *ledger) Flush() error { return nil }

// publish makes durable what was written before it was called.
func (l *ledger) publish() error {
	l.publishing.Lock()
	defer l.publishing.Unlock()
	l.mu.Lock()
	err, taken := l.failed, maps.Clone(l.held)
	l.mu.Unlock()
	if err != nil {
		return fmt.Errorf("an earlier flush failed, and what was written before it may be lost: %w", err)
	}
	err = l.writeAreas(taken)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failed = err
		return err
	}
	for k, image := range taken {
		if now := l.held[k]; &now[0] == &image[0] {
			delete(l.held, k)
		}
	}
	if len(l.held) > 0 && !l.manual {
		l.timer.Reset(publishEvery)
	}
	return nil
}

// writeAreas is the order of the package comment. The lowest area is the one
// that is current on disk: areas fill up one after the other.
func (l *ledger) writeAreas(images map[uint64][]byte) error {
	if err := l.dev.Flush(); err != nil {
		return err
	}
	numbers := slices.Sorted(maps.Keys(images))
	for i := len(numbers) - 1; i >= 0; i-- {
		if i == 0 && len(numbers) > 1 {
			if err := l.dev.Flush(); err != nil {
				return err
			}
		}
		if _, err := l.dev.WriteAt(images[numbers[i]], l.layout.Off(l.layout.AreaChunk(numbers[i]))); err != nil {
			return fmt.Errorf("write exception area %d: %w", numbers[i], err)
		}
	}
	if len(numbers) == 0 {
		return nil
	}
	return l.dev.Flush()
}

// Discard implements block.Device. Nobody has a chunk to give back.
func (l *ledger) Discard(off, length int64) error {
	return block.CheckRange(off, length, l.dev.Size())
}

// WriteZeroes implements block.Device.
func (l *ledger) WriteZeroes(off, length int64) error {
	if err := block.CheckRange(off, length, l.dev.Size()); err != nil {
		return err
	}
	for p := range l.parts(off, length) {
		var err error
		if p.isArea || p.off < l.layout.ChunkBytes {
			err = l.write(make([]byte, p.end-p.off), p)
		} else {
			err = l.dev.WriteZeroes(p.off, p.end-p.off)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Extents implements block.Device.
func (l *ledger) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	return l.dev.Extents(off, length)
}

// Size implements block.Device.
func (l *ledger) Size() int64 { return l.dev.Size() }

// Caps implements block.Device.
func (l *ledger) Caps() block.Caps { return l.dev.Caps() }

// Close implements block.Device: nothing is published from now on. The file
// stays open.
func (l *ledger) Close() error {
	l.timer.Stop()
	l.publishing.Lock() // waits for what the timer began
	defer l.publishing.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = errClosed
	return nil
}

var errClosed = errs.E(errs.Conflict, "the overlay is closed")

var _ block.Device = (*ledger)(nil)
