package snap

import (
	"fmt"
	"iter"
	"slices"
	"sync"

	"cowl/internal/block"
	"cowl/internal/errs"
)

// pieceBytes is how large a request may be within a batch; larger ones are
// taken apart so that one client cannot hold everyone's memory.
const pieceBytes = 1 << 20

// Origin is a device with snapshots: a write copies the old content to every
// attached store before it replaces it. While a snapshot is being merged it
// shows the merged content from the first moment on.
//
// It passes Discard and WriteZeroes through, after copying out as for a write.
type Origin struct {
	dev    block.Device
	commit committer

	// gate is held for reading by every request, and for writing by whatever
	// changes the fields below: so a snapshot comes between two requests.
	gate  sync.RWMutex
	snaps []*Snapshot // attached
	merge *merge      // nil unless a snapshot is being merged
}

// NewOrigin returns dev as an origin without snapshots. Closing it closes dev.
func NewOrigin(dev block.Device) *Origin {
	o := &Origin{dev: dev}
	o.commit.init(o)
	return o
}

// Attach makes the origin's content of this instant readable as a snapshot of
// size bytes (the origin's size when the snapshot was created; at most its
// size now). What was written before is in it, what is written after is not.
// A store with exceptions goes on where it was.
func (o *Origin) Attach(s *Store, size int64, readOnly bool) (*Snapshot, error) {
	if size < 0 || size > o.dev.Size() {
		return nil, errs.E(errs.Corrupt, "snapshot of %d bytes on an origin of %d bytes", size, o.dev.Size())
	}
	if err := s.checkOrigin(size); err != nil {
		return nil, err
	}
	n := &Snapshot{origin: o, store: s, size: size, readOnly: readOnly}
	o.gate.Lock()
	defer o.gate.Unlock()
	if o.attached(s) != nil || o.merge != nil && o.merge.store == s {
		return nil, errs.E(errs.Conflict, "the COW device is attached already")
	}
	o.snaps = append(o.snaps, n)
	return n, nil
}

// checkOrigin returns errs.Corrupt if the store keeps chunks that an origin
// of size bytes does not have.
func (s *Store) checkOrigin(size int64) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if last, ok := s.index.last(); ok && s.layout.Off(last) >= size {
		return errs.E(errs.Corrupt, "exception store keeps chunk %d, behind the end of an origin of %d bytes", last, size)
	}
	return nil
}

// Detach takes a snapshot away: the origin no longer copies for it, and its
// own requests fail.
func (o *Origin) Detach(n *Snapshot) {
	o.gate.Lock()
	defer o.gate.Unlock()
	o.drop(n)
}

func (o *Origin) drop(n *Snapshot) {
	n.detached = true
	o.snaps = slices.DeleteFunc(o.snaps, func(s *Snapshot) bool { return s == n })
}

func (o *Origin) attached(s *Store) *Snapshot {
	for _, n := range o.snaps {
		if n.store == s {
			return n
		}
	}
	return nil
}

// ReadAt implements block.Device.
func (o *Origin) ReadAt(p []byte, off int64) (int, error) {
	o.gate.RLock()
	defer o.gate.RUnlock()
	if o.merge == nil {
		return o.dev.ReadAt(p, off)
	}
	if err := block.CheckRange(off, int64(len(p)), o.dev.Size()); err != nil {
		return 0, err
	}
	m, done := o.merge.store, int64(0)
	for done < int64(len(p)) {
		r := m.nextRun(off+done, off+int64(len(p)))
		dev, at := o.dev, r.off
		if r.excepted {
			dev, at = m.dev, r.cow
		}
		n, err := dev.ReadAt(p[done:done+r.length], at)
		done += int64(n)
		if err != nil {
			return int(done), err
		}
	}
	return int(done), nil
}

// WriteAt implements block.Device.
func (o *Origin) WriteAt(p []byte, off int64) (int, error) {
	if err := o.mutate(change{op: opWrite, off: off, length: int64(len(p)), data: p}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Discard implements block.Device.
func (o *Origin) Discard(off, length int64) error {
	return o.mutate(change{op: opDiscard, off: off, length: length})
}

// WriteZeroes implements block.Device.
func (o *Origin) WriteZeroes(off, length int64) error {
	return o.mutate(change{op: opZeroes, off: off, length: length})
}

// mutate sends a change where it belongs: with a merge in progress, chunks
// that are still to be merged are changed on the COW device.
func (o *Origin) mutate(c change) error {
	if err := block.CheckRange(c.off, c.length, o.dev.Size()); err != nil {
		return err
	}
	o.enter(c.off, c.end())
	defer o.gate.RUnlock()
	if o.merge == nil {
		return o.mutateBase(c)
	}
	m := o.merge.store
	for off := c.off; off < c.end(); {
		r := m.nextRun(off, c.end())
		part := c.part(r.off, r.end())
		var err error
		switch {
		case !r.excepted:
			err = o.mutateBase(part)
		case part.op == opDiscard: // advice, and the chunk will be copied anyway
		default:
			err = part.at(r.cow).apply(m.dev)
			if err == nil && o.merge.touches(o.merge.limbo, r.off, r.end()) {
				err = o.mutateBase(part)
			}
		}
		if err != nil {
			return err
		}
		off = r.end()
	}
	return nil
}

// enter takes gate for reading once no merge step is at work on the range.
func (o *Origin) enter(off, end int64) {
	for {
		o.gate.RLock()
		if o.merge == nil || !o.merge.busy(off, end) {
			return
		}
		done := o.merge.stepDone
		o.gate.RUnlock()
		<-done
	}
}

// mutateBase changes the origin device, after copying out what has to be.
func (o *Origin) mutateBase(c change) error {
	if !o.needsCopy(c.off, c.end()) {
		return c.apply(o.dev)
	}
	return o.commit.pieces(nil, c)
}

// needsCopy reports whether a snapshot lacks a chunk of the range.
func (o *Origin) needsCopy(off, end int64) bool {
	for _, n := range o.snaps {
		if end := min(end, n.size); off < end && n.store.wantsCommit() && !n.store.covers(off, end) {
			return true
		}
	}
	return false
}

// Flush implements block.Device. An attached snapshot's COW device needs no
// flush: its exceptions were durable before the origin was written.
func (o *Origin) Flush() error {
	o.gate.RLock()
	defer o.gate.RUnlock()
	if o.merge != nil {
		if err := o.merge.store.dev.Flush(); err != nil {
			return err
		}
	}
	return o.dev.Flush()
}

// Extents implements block.Device.
func (o *Origin) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		if err := block.CheckRange(off, length, o.dev.Size()); err != nil {
			yield(block.Extent{}, err)
			return
		}
		o.gate.RLock()
		defer o.gate.RUnlock()
		if o.merge == nil {
			o.dev.Extents(off, length)(yield)
			return
		}
		for end := off + length; off < end; {
			r := o.merge.store.nextRun(off, end)
			if r.excepted {
				if !yield(block.Extent{Off: r.off, Len: r.length, Kind: block.Data}, nil) {
					return
				}
			} else if !forward(o.dev.Extents(r.off, r.length), 0, yield) {
				return
			}
			off = r.end()
		}
	}
}

// forward yields what extents has, deeper by depth layers, and reports
// whether to go on.
func forward(extents iter.Seq2[block.Extent, error], depth int, yield func(block.Extent, error) bool) bool {
	for e, err := range extents {
		e.Depth += depth
		if !yield(e, err) || err != nil {
			return false
		}
	}
	return true
}

// Size implements block.Device.
func (o *Origin) Size() int64 { return o.dev.Size() }

// Caps implements block.Device.
func (o *Origin) Caps() block.Caps { return o.dev.Caps() }

// Close implements block.Device. Attached snapshots fail from now on.
func (o *Origin) Close() error {
	o.gate.Lock()
	defer o.gate.Unlock()
	for len(o.snaps) > 0 {
		o.drop(o.snaps[0])
	}
	return o.dev.Close()
}

// op is a kind of change.
type op uint8

const (
	opWrite op = iota
	opZeroes
	opDiscard
	opCopyOut // copy the old content out and change nothing
)

// change is a write in the wide sense. It is a value: taking one apart costs
// nothing.
type change struct {
	op          op
	off, length int64
	data        []byte // of opWrite, length bytes
}

func (c change) end() int64 { return c.off + c.length }

// part returns the change within [off, end).
func (c change) part(off, end int64) change {
	if c.data != nil {
		c.data = c.data[off-c.off : end-c.off]
	}
	c.off, c.length = off, end-off
	return c
}

// at returns the change moved to off.
func (c change) at(off int64) change {
	c.off = off
	return c
}

// apply makes the change on a device.
func (c change) apply(dev block.Device) error {
	var err error
	switch c.op {
	case opWrite:
		_, err = dev.WriteAt(c.data, c.off)
	case opZeroes:
		err = dev.WriteZeroes(c.off, c.length)
	case opDiscard:
		err = dev.Discard(c.off, c.length)
	case opCopyOut:
	default:
		panic(fmt.Sprintf("snap: op %d", c.op))
	}
	return err
}

// overlay makes the change in a buffer that holds the device's bytes from
// start on. A discard leaves the old bytes.
func (c change) overlay(buf []byte, start int64) {
	from, to := max(c.off, start), min(c.end(), start+int64(len(buf)))
	if from >= to {
		return
	}
	switch c.op {
	case opWrite:
		copy(buf[from-start:to-start], c.data[from-c.off:])
	case opZeroes:
		clear(buf[from-start : to-start])
	}
}
