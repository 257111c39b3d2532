// Package mem is a block device in memory: sparse, of any size, and cheap to
// clone. It is for tests and for short-lived data; nothing in it outlives the
// process, and Flush has nothing to do.
package mem

import (
	"fmt"
	"iter"
	"slices"
	"sync"

	"cowl/internal/block"
)

// pageSize is the granularity of allocation, and so of Extents and Discard.
const pageSize = 4096

type page [pageSize]byte

// Device is a sparse block device in memory. What was never written reads as
// zeroes and takes no memory.
//
// Close does nothing: the content lives as long as the Device, so that a test
// can hand it out, have it closed, and hand it out again.
type Device struct {
	size int64

	mu  sync.RWMutex
	top *layer
}

// New returns a device of size bytes, all zeroes. It panics if size is negative.
func New(size int64) *Device {
	if size < 0 {
		panic(fmt.Sprintf("mem.New: negative size %d", size))
	}
	return &Device{size: size, top: newLayer(nil)}
}

// Clone returns a device of its own with the same content at this moment. It
// costs the same whatever the content: the two share pages until one of them
// writes.
func (d *Device) Clone() *Device {
	d.mu.Lock()
	defer d.mu.Unlock()
	frozen := d.top
	if len(frozen.pages) == 0 && frozen.below != nil {
		frozen = frozen.below // nothing was written since the last Clone
	}
	frozen = frozen.flattened()
	d.top = newLayer(frozen)
	return &Device{size: d.size, top: newLayer(frozen)}
}

// ReadAt implements block.Device.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	if err := block.CheckRange(off, int64(len(p)), d.size); err != nil {
		return 0, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	eachPage(off, int64(len(p)), func(no, from, to, done int64) {
		if pg := d.top.find(no); pg != nil {
			copy(p[done:], pg[from:to])
		} else {
			clear(p[done : done+to-from])
		}
	})
	return len(p), nil
}

// WriteAt implements block.Device.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	if err := block.CheckRange(off, int64(len(p)), d.size); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	eachPage(off, int64(len(p)), func(no, from, to, done int64) {
		copy(d.top.writable(no)[from:to], p[done:])
	})
	return len(p), nil
}

// Flush implements block.Device.
func (d *Device) Flush() error { return nil }

// Discard implements block.Device. Pages that lie wholly within the range
// become holes; the rest keeps its content.
func (d *Device) Discard(off, length int64) error {
	if err := block.CheckRange(off, length, d.size); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, no := range d.top.allocated(off, off+length) {
		if from := no * pageSize; from >= off && min(from+pageSize, d.size) <= off+length {
			d.top.drop(no)
		}
	}
	return nil
}

// WriteZeroes implements block.Device. Whole pages become holes.
func (d *Device) WriteZeroes(off, length int64) error {
	if err := block.CheckRange(off, length, d.size); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, no := range d.top.allocated(off, off+length) {
		start := no * pageSize
		from, to := max(off, start), min(off+length, start+pageSize)
		if from == start && min(start+pageSize, d.size) == to {
			d.top.drop(no)
		} else {
			clear(d.top.writable(no)[from-start : to-start])
		}
	}
	return nil
}

// Extents implements block.Device: pages that were written are data, the rest
// is a hole.
func (d *Device) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	if err := block.CheckRange(off, length, d.size); err != nil {
		return block.NoExtents(err)
	}
	return func(yield func(block.Extent, error) bool) {
		d.mu.RLock()
		pages := d.top.allocated(off, off+length)
		d.mu.RUnlock()

		at, end := off, off+length
		for i := 0; i < len(pages) && at < end; {
			from := max(pages[i]*pageSize, off)
			j := i + 1
			for j < len(pages) && pages[j] == pages[j-1]+1 {
				j++
			}
			to := min((pages[j-1]+1)*pageSize, end)
			if from > at && !yield(block.Extent{Off: at, Len: from - at, Kind: block.Hole}, nil) {
				return
			}
			if !yield(block.Extent{Off: from, Len: to - from, Kind: block.Data}, nil) {
				return
			}
			at, i = to, j
		}
		if at < end {
			yield(block.Extent{Off: at, Len: end - at, Kind: block.Hole}, nil)
		}
	}
}

// Size implements block.Device.
func (d *Device) Size() int64 { return d.size }

// Caps implements block.Device.
func (d *Device) Caps() block.Caps {
	return block.Caps{Discard: true, Zeroes: true, BlockSize: block.SectorSize}
}

// Close implements block.Device; see Device.
func (d *Device) Close() error { return nil }

// eachPage calls f for every page that [off, off+length) touches, with the
// page's number, the part of the page, and the bytes that came before it.
func eachPage(off, length int64, f func(no, from, to, done int64)) {
	for done := int64(0); done < length; {
		at := off + done
		from := at % pageSize
		to := min(pageSize, from+length-done)
		f(at/pageSize, from, to, done)
		done += to - from
	}
}

// layer holds the pages that were written since the layer below was frozen by
// a Clone. A nil page hides one below: it reads as zeroes. Only a device's top
// layer changes, so frozen ones are read without a lock by all who share them.
type layer struct {
	pages map[int64]*page // by number, offset/pageSize
	below *layer          // nil at the bottom
	depth int             // layers below
}

// maxDepth bounds how many layers a read may have to look through.
const maxDepth = 8

func newLayer(below *layer) *layer {
	l := &layer{pages: make(map[int64]*page), below: below}
	if below != nil {
		l.depth = below.depth + 1
	}
	return l
}

// find returns the page, nil if it reads as zeroes.
func (l *layer) find(no int64) *page {
	for ; l != nil; l = l.below {
		if p, ok := l.pages[no]; ok {
			return p
		}
	}
	return nil
}

// writable returns the page as one that belongs to this layer.
func (l *layer) writable(no int64) *page {
	if p := l.pages[no]; p != nil {
		return p
	}
	p := new(page)
	if old := l.find(no); old != nil {
		*p = *old
	}
	l.pages[no] = p
	return p
}

// drop makes the page read as zeroes.
func (l *layer) drop(no int64) {
	if l.below.find(no) != nil {
		l.pages[no] = nil
	} else {
		delete(l.pages, no)
	}
}

// allocated returns the numbers, sorted, of the pages that hold data and touch
// the bytes [from, to). It costs the smaller of the range and what is stored.
func (l *layer) allocated(from, to int64) []int64 {
	if from >= to {
		return nil
	}
	first, last := from/pageSize, (to-1)/pageSize
	stored := 0
	for x := l; x != nil; x = x.below {
		stored += len(x.pages)
	}
	var nos []int64
	if last-first < int64(stored) {
		for no := first; no <= last; no++ {
			if l.find(no) != nil {
				nos = append(nos, no)
			}
		}
		return nos
	}
	for x := l; x != nil; x = x.below {
		for no := range x.pages {
			if first <= no && no <= last && l.find(no) != nil {
				nos = append(nos, no)
			}
		}
	}
	slices.Sort(nos)
	return slices.Compact(nos)
}

// flattened returns a layer with the same content and at most maxDepth below.
func (l *layer) flattened() *layer {
	if l.depth < maxDepth {
		return l
	}
	flat := newLayer(nil)
	for x := l; x != nil; x = x.below {
		for no := range x.pages {
			if p := l.find(no); p != nil {
				flat.pages[no] = p
			}
		}
	}
	return flat
}
