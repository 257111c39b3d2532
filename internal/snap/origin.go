package snap

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"slices"
	"sync"

	"cowl/internal/block"
	"cowl/internal/errs"
)

// pieceBytes is how much is written to a device at once when it is copied from
// memory of ours.
const pieceBytes = 1 << 20

// maxOrigin is how large an origin may be, bytes: the end of its last chunk, and
// of any batch, is still a number.
const maxOrigin = 1 << 62

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

// OriginOptions is how an Origin behaves.
type OriginOptions struct {
	// Manual makes it commit only within calls, without a timer or goroutines
	// of its own: for tests that count and repeat operations.
	Manual bool
}

// NewOrigin returns dev as an origin without snapshots. Closing it closes dev.
func NewOrigin(dev block.Device, opts OriginOptions) *Origin {
	o := &Origin{dev: dev}
	o.commit.init(dev, opts.Manual)
	return o
}

// Attach makes the origin's content of this instant readable as a snapshot of
// size bytes (the origin's size when the snapshot was created; at most its
// size now). What was written before is in it, what is written after is not.
// A store with exceptions goes on where it was.
func (o *Origin) Attach(s *Store, size int64, readOnly bool) (*Snapshot, error) {
	if err := o.fits(s, size); err != nil {
		return nil, err
	}
	n := &Snapshot{origin: o, store: s, size: size, readOnly: readOnly}
	o.gate.Lock()
	defer o.gate.Unlock()
	if o.attached(s) != nil || o.merge != nil && o.merge.store == s {
		return nil, errs.E(errs.Conflict, "the COW device is attached already")
	}
	o.snaps = append(o.snaps, n)
	n.birth = o.commit.attached(o.snaps)
	return n, nil
}

// fits returns errs.Corrupt if the store cannot be that of a snapshot of size
// bytes of the origin.
func (o *Origin) fits(s *Store, size int64) error {
	if o.dev.Size() > maxOrigin {
		return errs.E(errs.Unsupported, "an origin of %d bytes is larger than 4 EiB", o.dev.Size())
	}
	if size < 0 || size > o.dev.Size() {
		return errs.E(errs.Corrupt, "snapshot of %d bytes on an origin of %d bytes", size, o.dev.Size())
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if last, ok := s.index.last(); ok && s.layout.Off(last) >= size {
		return errs.E(errs.Corrupt, "exception store keeps chunk %d, behind the end of a snapshot of %d bytes", last, size)
	}
	return nil
}

// Detach takes a snapshot away: the origin no longer copies for it, and its
// own requests fail. What was written before has been copied out when it
// returns, so that the store can be attached again.
func (o *Origin) Detach(n *Snapshot) {
	o.commit.drain() // most of it while others go on
	o.gate.Lock()
	defer o.gate.Unlock()
	o.commit.drain()
	o.drop(n)
}

func (o *Origin) drop(n *Snapshot) {
	n.detached.Store(true)
	o.snaps = slices.DeleteFunc(o.snaps, func(s *Snapshot) bool { return s == n })
	o.commit.attached(o.snaps)
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
	if err := block.CheckRange(off, int64(len(p)), o.dev.Size()); err != nil {
		return 0, err
	}
	if o.merge == nil {
		return o.readBelow(p, off, math.MaxUint64)
	}
	m, done := o.merge.store, int64(0)
	for done < int64(len(p)) {
		r := o.merge.nextRun(off+done, off+int64(len(p)))
		part := p[done : done+r.length]
		var n int
		var err error
		if r.excepted {
			n, err = m.dev.ReadAt(part, r.cow)
		} else {
			n, err = o.readBelow(part, r.off, math.MaxUint64)
		}
		done += int64(n)
		if err != nil {
			return int(done), err
		}
	}
	return int(done), nil
}

// WriteAt implements block.Device.
func (o *Origin) WriteAt(p []byte, off int64) (int, error) {
	done, err := o.mutate(change{op: opWrite, off: off, length: int64(len(p)), data: p})
	return int(done), err
}

// Discard implements block.Device. It is not worth a snapshot's last chunks:
// where there is no room for what it frees, nothing is freed.
func (o *Origin) Discard(off, length int64) error {
	_, err := o.mutate(change{op: opDiscard, off: off, length: length})
	if LacksRoom(err) != nil {
		return nil
	}
	return err
}

// WriteZeroes implements block.Device.
func (o *Origin) WriteZeroes(off, length int64) error {
	_, err := o.mutate(change{op: opZeroes, off: off, length: length})
	return err
}

// mutate makes a change, as much at a time as begin takes, and returns how much
// it made.
func (o *Origin) mutate(c change) (done int64, err error) {
	if err := block.CheckRange(c.off, c.length, o.dev.Size()); err != nil {
		return 0, err
	}
	for done < c.length {
		n, err := o.begin(c.part(c.off+done, c.end()))
		switch {
		case err == errCrowded: // waited for outside the gate, as is space below
			o.commit.drain()
		case err != nil:
			return done, err
		case n == 0:
			o.commit.waitRoom()
		}
		done += n
	}
	return done, nil
}

// begin makes the first n bytes of a change, or sees that they will be made:
// with a merge in progress, chunks that are still to be merged are changed on
// the COW device. It returns 0 if there is no room for more.
func (o *Origin) begin(c change) (n int64, err error) {
	o.enter(c.off, c.end())
	defer o.gate.RUnlock()
	if o.merge == nil {
		return o.beginBase(c)
	}
	m := o.merge
	r := m.nextRun(c.off, c.end())
	c = c.part(r.off, r.end())
	if !r.excepted {
		return o.beginBase(c)
	}
	both, end := m.onBoth(c.off, c.end())
	c = c.part(c.off, end)
	if both && c.op == opDiscard {
		return c.length, nil // it may do something else on either
	}
	if both {
		m.twice.Lock()
		defer m.twice.Unlock()
	}
	if err := c.at(r.cow).apply(m.store.dev); err != nil {
		return 0, err
	}
	if !both {
		return c.length, nil
	}
	return o.beginBase(c)
}

// enter takes gate for reading once no piece of a merge that is being copied
// touches the range.
func (o *Origin) enter(off, end int64) {
	for {
		o.gate.RLock()
		if o.merge == nil || !o.merge.busy(off, end) {
			return
		}
		copied := o.merge.copied
		o.gate.RUnlock()
		<-copied
	}
}

// beginBase changes the origin device, after copying out what has to be. What
// cannot be staged is waited for behind the gate: a snapshot that is attached
// in the meantime would not know whether it is in its content.
func (o *Origin) beginBase(c change) (n int64, err error) {
	if !o.needsCopy(c.off, c.end()) && !o.commit.overlaps(c.off, c.end()) {
		return c.length, c.apply(o.dev)
	}
	if c.op == opWrite && c.off%block.SectorSize == 0 && c.length%block.SectorSize == 0 {
		return o.commit.stage(c)
	}
	r, err := o.commit.submit(c.firstPiece(), nil)
	if err != nil {
		return 0, err
	}
	return r.length, o.commit.wait(r)
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
//
// It reports acknowledged writes that were lost since it last did. Where an
// origin has several users, each of whom must hear of it, see Lost.
func (o *Origin) Flush() error {
	if err := o.commit.flush(); err != nil {
		return err
	}
	o.gate.RLock()
	defer o.gate.RUnlock()
	if o.merge != nil {
		if err := o.merge.store.dev.Flush(); err != nil {
			return err
		}
	}
	return o.dev.Flush()
}

// Lost returns how many commits lost acknowledged writes, how many of them a
// Flush has reported, and why the last one did. Such writes may have been made
// in part.
func (o *Origin) Lost() (lost, told uint64, reason error) {
	o.commit.mu.Lock()
	defer o.commit.mu.Unlock()
	return o.commit.lost, o.commit.told, o.commit.reason
}

// Settle commits what has been written up to now, without a flush: after it,
// the stores' usage counts every write that was acknowledged.
func (o *Origin) Settle() { o.commit.drain() }

// Extents implements block.Device.
func (o *Origin) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		if err := block.CheckRange(off, length, o.dev.Size()); err != nil {
			yield(block.Extent{}, err)
			return
		}
		o.commit.drain()
		o.gate.RLock()
		defer o.gate.RUnlock()
		if o.merge == nil {
			o.dev.Extents(off, length)(yield)
			return
		}
		for end := off + length; off < end; {
			r := o.merge.nextRun(off, end)
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

// Close implements block.Device. What was written reaches the devices first,
// unflushed. Attached snapshots fail from now on.
func (o *Origin) Close() error {
	o.gate.Lock()
	defer o.gate.Unlock()
	err := o.commit.close()
	for len(o.snaps) > 0 {
		o.drop(o.snaps[0])
	}
	return cmp.Or(err, o.dev.Close())
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

// firstPiece returns the change up to the next multiple of batchBytes: so that
// one request cannot hold everyone's memory.
func (c change) firstPiece() change {
	return c.part(c.off, min(c.end(), (c.off/batchBytes+1)*batchBytes))
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
