package engine

import (
	"iter"
	"sync"
	"sync/atomic"

	"cowl/internal/block"
	"cowl/internal/errs"
)

// table is the indirection between a volume's users and what it is made of,
// as a device-mapper table is: it can be swapped between two requests. While
// it is suspended, requests wait; suspending waits for those in flight.
//
// A request holds gate for reading from its beginning to its end, and takes
// no other table's: suspending several tables one after another, in any order,
// cannot deadlock.
type table struct {
	gate     sync.RWMutex
	dev      block.Device // guarded by gate
	readOnly bool         // guarded by gate

	suspended atomic.Bool // for Status, which must not wait
}

// suspend returns when no request is in flight; new ones wait until resume.
func (t *table) suspend() {
	t.suspended.Store(true)
	t.gate.Lock()
}

func (t *table) resume() {
	t.suspended.Store(false)
	t.gate.Unlock()
}

// swap replaces the device between two requests.
func (t *table) swap(dev block.Device) {
	t.suspend()
	defer t.resume()
	t.dev = dev
}

// setReadOnly changes the permission between two requests.
func (t *table) setReadOnly(ro bool) {
	t.suspend()
	defer t.resume()
	t.readOnly = ro
}

// read runs a request that changes nothing.
func (t *table) read(f func(dev block.Device) error) error {
	t.gate.RLock()
	defer t.gate.RUnlock()
	return f(t.dev)
}

// write runs a request that changes content.
func (t *table) write(f func(dev block.Device) error) error {
	t.gate.RLock()
	defer t.gate.RUnlock()
	if t.readOnly {
		return block.ErrReadOnly
	}
	return f(t.dev)
}

// extentBatch is how many extents are gathered under the gate at a time. The
// gate cannot be held while the caller looks at them: it may well write to the
// same volume, and wait there for a suspend that waits for it.
const extentBatch = 256

// extents walks a range like Device.Extents, in batches between which the
// table may be swapped.
func (t *table) extents(off, length int64) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		batch := make([]block.Extent, 0, extentBatch)
		for end := off + length; ; {
			var err error
			batch, err = t.gather(batch[:0], off, end-off)
			for _, e := range batch {
				if !yield(e, nil) {
					return
				}
				off = e.End()
			}
			if err != nil {
				yield(block.Extent{}, err)
			}
			if err != nil || off >= end {
				return
			}
		}
	}
}

// gather returns the first extents of a range.
func (t *table) gather(batch []block.Extent, off, length int64) ([]block.Extent, error) {
	t.gate.RLock()
	defer t.gate.RUnlock()
	for e, err := range t.dev.Extents(off, length) {
		if err != nil {
			return batch, err
		}
		if batch = append(batch, e); len(batch) == cap(batch) {
			break
		}
	}
	if len(batch) == 0 && length > 0 {
		return nil, errs.E(errs.Other, "no extents at offset %d", off)
	}
	return batch, nil
}
