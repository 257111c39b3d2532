package snap

import (
	"cmp"
	"iter"
	"sync/atomic"

	"cowl/internal/block"
	"cowl/internal/errs"
)

// Snapshot is the content that an origin had when it was attached, with the
// writes that the snapshot itself received since. It is a device of its own
// size, whatever becomes of the origin's.
//
// A snapshot that overflows becomes invalid: every request fails from then
// on, as the kernel's do. It is never silently wrong.
type Snapshot struct {
	origin   *Origin
	store    *Store
	size     int64
	readOnly bool
	birth    uint64 // the first generation that is not in the content
	reserved bool   // see Reserve; guarded by committer.mu
	detached atomic.Bool
}

// Store returns the exception store behind the snapshot.
func (n *Snapshot) Store() *Store { return n.store }

// usable returns why requests fail, nil if they need not.
func (n *Snapshot) usable() error {
	if n.detached.Load() {
		return errs.E(errs.Conflict, "snapshot is no longer attached to its origin")
	}
	return n.store.err()
}

// ReadAt implements block.Device.
func (n *Snapshot) ReadAt(p []byte, off int64) (int, error) {
	if err := block.CheckRange(off, int64(len(p)), n.size); err != nil {
		return 0, err
	}
	n.origin.gate.RLock()
	defer n.origin.gate.RUnlock()
	if err := n.usable(); err != nil {
		return 0, err
	}
	for done := 0; done < len(p); {
		r := n.store.nextRun(off+int64(done), off+int64(len(p)))
		if err := n.readRun(p[done:done+int(r.length)], r); err != nil {
			return done, err
		}
		done += int(r.length)
	}
	return len(p), nil
}

// readRun reads a run that does not cross its end. What came from the origin
// counts only if it is still not excepted afterwards: see the package comment.
func (n *Snapshot) readRun(p []byte, r run) error {
	if r.excepted {
		_, err := n.store.dev.ReadAt(p, r.cow)
		return err
	}
	if _, err := n.origin.readBelow(p, r.off, n.birth); err != nil {
		return err
	}
	if err := n.store.err(); err != nil {
		return err
	}
	for off := r.off; off < r.end(); {
		now := n.store.nextRun(off, r.end())
		if now.excepted {
			if _, err := n.store.dev.ReadAt(p[now.off-r.off:now.end()-r.off], now.cow); err != nil {
				return err
			}
		}
		off = now.end()
	}
	return nil
}

// WriteAt implements block.Device.
func (n *Snapshot) WriteAt(p []byte, off int64) (int, error) {
	done, err := n.mutate(change{op: opWrite, off: off, length: int64(len(p)), data: p})
	return int(done), err
}

// WriteZeroes implements block.Device.
func (n *Snapshot) WriteZeroes(off, length int64) error {
	_, err := n.mutate(change{op: opZeroes, off: off, length: length})
	return err
}

// Discard implements block.Device. It is advice, and a snapshot never gives a
// chunk back, so that nothing is done.
func (n *Snapshot) Discard(off, length int64) error {
	if n.readOnly {
		return block.ErrReadOnly
	}
	return block.CheckRange(off, length, n.size)
}

// mutate changes what is excepted on the COW device, and sends the rest
// through the committer, which excepts it first. It returns how much it made.
func (n *Snapshot) mutate(c change) (done int64, err error) {
	if n.readOnly {
		return 0, block.ErrReadOnly
	}
	if err := block.CheckRange(c.off, c.length, n.size); err != nil {
		return 0, err
	}
	for done < c.length {
		made, req, err := n.begin(c.part(c.off+done, c.end()))
		if req != nil {
			err = n.origin.commit.wait(req)
		}
		switch {
		case err == errCrowded:
			n.origin.commit.drain()
		case err != nil:
			return done, err
		}
		done += made
	}
	return done, nil
}

// begin makes the first made bytes of a change, or sees that they will be made.
func (n *Snapshot) begin(c change) (made int64, req *request, err error) {
	n.origin.gate.RLock()
	defer n.origin.gate.RUnlock()
	if err := n.usable(); err != nil {
		return 0, nil, err
	}
	r := n.store.nextRun(c.off, c.end())
	c = c.part(r.off, r.end())
	if r.excepted {
		return c.length, nil, c.at(r.cow).apply(n.store.dev)
	}
	if req, err = n.origin.commit.submit(c.firstPiece(), n); err != nil {
		return 0, nil, err
	}
	return req.length, req, nil
}

// Flush implements block.Device.
func (n *Snapshot) Flush() error {
	n.origin.gate.RLock()
	defer n.origin.gate.RUnlock()
	if err := n.usable(); err != nil {
		return err
	}
	return n.store.dev.Flush()
}

// Extents implements block.Device. Depth 0 is the snapshot's own COW device,
// everything else the origin's, one deeper.
func (n *Snapshot) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		if err := block.CheckRange(off, length, n.size); err != nil {
			yield(block.Extent{}, err)
			return
		}
		n.origin.commit.drain()
		n.origin.gate.RLock()
		defer n.origin.gate.RUnlock()
		if err := n.usable(); err != nil {
			yield(block.Extent{}, err)
			return
		}
		for end := off + length; off < end; {
			r := n.store.nextRun(off, end)
			if r.excepted {
				if !yield(block.Extent{Off: r.off, Len: r.length, Kind: block.Data}, nil) {
					return
				}
			} else if !n.originExtents(r, yield) {
				return
			}
			off = r.end()
		}
	}
}

// originExtents yields the origin's extents of a run without exceptions. The
// second look is the one of readRun: a hole may be one that was punched after
// its data was copied out, or after the snapshot died.
func (n *Snapshot) originExtents(r run, yield func(block.Extent, error) bool) bool {
	for e, err := range n.origin.dev.Extents(r.off, r.length) {
		err = cmp.Or(err, n.store.err())
		if err != nil {
			yield(block.Extent{}, err)
			return false
		}
		e.Depth++
		for off := e.Off; off < e.End(); {
			now := n.store.nextRun(off, e.End())
			part := block.Extent{Off: now.off, Len: now.length, Kind: e.Kind, Depth: e.Depth}
			if now.excepted {
				part.Kind, part.Depth = block.Data, 0
			}
			if !yield(part, nil) {
				return false
			}
			off = now.end()
		}
	}
	return true
}

// Size implements block.Device.
func (n *Snapshot) Size() int64 { return n.size }

// Caps implements block.Device.
func (n *Snapshot) Caps() block.Caps {
	return block.Caps{ReadOnly: n.readOnly, BlockSize: max(n.origin.dev.Caps().BlockSize, n.store.dev.Caps().BlockSize)}
}

// Close implements block.Device: it detaches the snapshot. The COW device
// stays open.
func (n *Snapshot) Close() error {
	n.origin.Detach(n)
	return nil
}
