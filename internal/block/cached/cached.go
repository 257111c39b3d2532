// Package cached is a read-only device that keeps what was read of a slow one
// in bounded memory, and reads ahead of whoever reads on and on: for images
// whose content has to be fetched, decrypted and unpacked piece by piece.
//
// The content is fetched in blocks. Requests for a block that is on its way wait
// for it, so none is fetched twice at a time. An error is kept for nobody: the
// next request tries again. Blocks that are known to be zero take no memory.
//
// The device below must not change: what is kept would not follow.
//
// Locks: Device.mu is taken alone, and not held over I/O.
package cached

import (
	"container/list"
	"iter"
	"sync"

	"cowl/internal/block"
)

// Options say how much is kept and fetched. The zero Options are usable.
type Options struct {
	Block  int64 // bytes that are fetched at once; 64 KiB if 0
	Memory int64 // bytes that are kept; 64 MiB if 0. What is in use may exceed it.
	Ahead  int64 // bytes that are read ahead of a sequential reader at most; 2 MiB if 0
	// Parallel is how many blocks are read ahead at a time, and how many are
	// fetched at a time for one request; 4 if 0.
	Parallel int
}

// Device is a cache over a device.
type Device struct {
	below block.Device
	o     Options

	slots chan struct{}  // of those that read ahead
	ahead sync.WaitGroup // they themselves

	mu      sync.Mutex
	blocks  map[int64]*entry
	used    *list.List // of *entry with data, the one that was used last in front
	bytes   int64      // of their data
	streams [maxStreams]stream
	clock   int64 // counts reads, to know the stream that is the oldest
	closed  bool
}

// entry is a block that is there or on its way.
type entry struct {
	n    int64
	done chan struct{} // closed when the rest is known, which then does not change
	data []byte        // nil if it is all zero, or there is an error
	err  error
	elem *list.Element // in used; guarded by Device.mu
}

var _ block.Device = (*Device)(nil)

// New returns a cache over a device, which it closes when it is closed.
func New(below block.Device, o Options) *Device {
	if o.Block == 0 {
		o.Block = 64 << 10
	}
	if o.Memory == 0 {
		o.Memory = 64 << 20
	}
	if o.Ahead == 0 {
		o.Ahead = 2 << 20
	}
	if o.Parallel == 0 {
		o.Parallel = 4
	}
	return &Device{below: below, o: o, slots: make(chan struct{}, o.Parallel), blocks: map[int64]*entry{}, used: list.New()}
}

// ReadAt implements block.Device.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	if err := block.CheckRange(off, int64(len(p)), d.below.Size()); err != nil {
		return 0, err
	}
	d.readAhead(off, int64(len(p)))
	done := 0
	for done < len(p) {
		at := off + int64(done)
		n, err := d.readSome(p[done:], at)
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// readSome reads the first Parallel blocks of a range, or what it has of them.
func (d *Device) readSome(p []byte, off int64) (int, error) {
	first, last := off/d.o.Block, (off+int64(len(p))-1)/d.o.Block
	last = min(last, first+int64(d.o.Parallel)-1)
	entries := make([]*entry, 0, d.o.Parallel)
	for n := first; n <= last; n++ {
		e, mine := d.claim(n)
		entries = append(entries, e)
		switch {
		case mine && n == last: // by this goroutine, which has nothing else to do
			d.fetch(e)
		case mine:
			go d.fetch(e)
		}
	}
	for _, e := range entries { // all of them: none is on its way when an error is returned
		<-e.done
	}
	done := 0
	for _, e := range entries {
		if e.err != nil {
			return done, e.err
		}
		at := off + int64(done) - e.n*d.o.Block
		want := p[done:min(int64(len(p)), int64(done)+d.o.Block-at)]
		if e.data == nil {
			clear(want)
		} else {
			copy(want, e.data[at:])
		}
		done += len(want)
	}
	return done, nil
}

// claim returns a block's entry, and whether the caller is to fetch it.
func (d *Device) claim(n int64) (e *entry, mine bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.blocks[n]; e != nil {
		if e.elem != nil {
			d.used.MoveToFront(e.elem)
		}
		return e, false
	}
	e = &entry{n: n, done: make(chan struct{})}
	d.blocks[n] = e
	return e, true
}

// fetch reads a claimed block.
func (d *Device) fetch(e *entry) {
	data, err := d.load(e.n)
	d.mu.Lock()
	e.data, e.err = data, err
	switch {
	case data != nil:
		e.elem = d.used.PushFront(e)
		d.bytes += int64(len(data))
		d.evict()
	default: // of an error nothing is kept, and zeroes are known below
		delete(d.blocks, e.n)
	}
	d.mu.Unlock()
	close(e.done)
}

// evict lets go of the blocks that were not used for longest. d.mu is held.
func (d *Device) evict() {
	for d.bytes > d.o.Memory && d.used.Len() > 1 {
		e := d.used.Remove(d.used.Back()).(*entry)
		d.bytes -= int64(len(e.data))
		delete(d.blocks, e.n)
	}
}

// load reads a block, nil if it is known to be all zero.
func (d *Device) load(n int64) ([]byte, error) {
	off := n * d.o.Block
	length := min(d.o.Block, d.below.Size()-off)
	zero := true
	for e, err := range d.below.Extents(off, length) {
		if err != nil {
			return nil, err
		}
		if zero = zero && e.Kind != block.Data; !zero {
			break
		}
	}
	if zero {
		return nil, nil
	}
	b := make([]byte, length)
	_, err := d.below.ReadAt(b, off)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Extents implements block.Device.
func (d *Device) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	return d.below.Extents(off, length)
}

// Size implements block.Device.
func (d *Device) Size() int64 { return d.below.Size() }

// Caps implements block.Device.
func (d *Device) Caps() block.Caps {
	return block.Caps{ReadOnly: true, BlockSize: d.below.Caps().BlockSize}
}

// WriteAt implements block.Device.
func (d *Device) WriteAt([]byte, int64) (int, error) { return 0, block.ErrReadOnly }

// WriteZeroes implements block.Device.
func (d *Device) WriteZeroes(int64, int64) error { return block.ErrReadOnly }

// Discard implements block.Device.
func (d *Device) Discard(int64, int64) error { return block.ErrReadOnly }

// Flush implements block.Device.
func (d *Device) Flush() error { return nil }

// Close implements block.Device, and ends the reading ahead.
func (d *Device) Close() error {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.ahead.Wait()
	return d.below.Close()
}
