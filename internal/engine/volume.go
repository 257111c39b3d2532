package engine

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"sync/atomic"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/forecast"
	"cowl/internal/snap"
)

// vol is an active volume as its users see it: an origin, which every plain
// volume is, or a snapshot.
type vol struct {
	table
	name   string
	family *family
	base   *base // its extents: a volume's data, or a snapshot's COW store

	store *snap.Store    // of a snapshot; nil otherwise
	snap  *snap.Snapshot // while it is attached; guarded by Group.changes

	writes *forecast.Recorder // of an origin; nil otherwise
	fill   forecast.Fill      // of a snapshot's store; guarded by Group.mu

	opens   int  // guarded by Group.mu
	merging bool // on its way back into its origin; guarded by Group.mu

	supply supply // of a snapshot
}

// handle is one opening of a volume.
type handle struct {
	group  *Group
	vol    *vol
	caps   block.Caps
	closed atomic.Bool
	told   atomic.Uint64 // see Flush
}

// Open returns a volume's content and counts as one opener until it is
// closed. A volume that is not active is activated for as long as it is open;
// its family comes with it. A read-only volume opens, with Caps.ReadOnly,
// whatever is asked for. A snapshot that is being merged is errs.Conflict.
//
// Permission and size may change while the device is open; a write to a volume
// that has become read-only fails, while Caps stays what it was.
func (g *Group) Open(ctx context.Context, name string, readOnly bool) (block.Device, error) {
	h, err := g.openActive(name)
	if h == nil && err == nil {
		if err := g.lock(ctx); err != nil {
			return nil, err
		}
		defer g.unlock()
		h, err = g.openLocked(name)
	}
	if err != nil {
		return nil, err
	}
	h.vol.read(func(dev block.Device) error {
		h.caps = dev.Caps()
		h.caps.ReadOnly = h.caps.ReadOnly || readOnly || h.vol.readOnly
		return nil
	})
	if g.hasSnapshots(h.vol) {
		// A discard would free nothing, and zeroes cost what any bytes do: all that
		// they name is copied to the stores first. dm-snapshot offers neither, and
		// mkfs begins with one over the whole volume.
		h.caps.Discard, h.caps.Zeroes = false, false
	}
	return h, nil
}

// hasSnapshots reports whether the volume's writes may have to be copied for a
// snapshot. One that is being merged takes none: what is discarded is freed
// wherever it lies.
func (g *Group) hasSnapshots(v *vol) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	f := v.family
	return slices.ContainsFunc(f.snaps, func(s *vol) bool {
		return f.merge == nil || f.merge.vol != s || !f.merge.started
	})
}

// openActive counts an opener of an active volume. It returns neither handle
// nor error if there is none of that name, or if changes is needed first.
func (g *Group) openActive(name string) (*handle, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	v := g.volumes[name]
	switch {
	case g.closed:
		return nil, errs.E(errs.Conflict, "volume group %s is closed", g.model.Name)
	case v == nil, g.undecided:
		return nil, nil
	case v.merging:
		return nil, errs.E(errs.Conflict, "Snapshot %s/%s is being merged into %s.", g.model.Name, name, v.family.top.name)
	}
	v.opens++
	h := &handle{group: g, vol: v}
	_, told, _ := v.family.origin.Lost()
	h.told.Store(told)
	return h, nil
}

// openLocked activates the volume's family if it has to. The caller holds
// changes.
func (g *Group) openLocked(name string) (*handle, error) {
	if err := g.decide(); err != nil {
		return nil, err
	}
	h, err := g.openActive(name) // somebody else may have activated it meanwhile
	if h != nil || err != nil {
		return h, err
	}
	f, err := g.activate(name, false)
	if err != nil {
		return nil, err
	}
	if h, err = g.openActive(name); h == nil || err != nil {
		// Its family is active, and it cannot be opened.
		g.settle(f)
		if err == nil {
			err = errs.E(errs.NotFound, "Failed to find logical volume \"%s/%s\"", g.Model().Name, name)
		}
	}
	return h, err
}

// ReadAt implements block.Device.
func (h *handle) ReadAt(p []byte, off int64) (n int, err error) {
	if err := h.usable(); err != nil {
		return 0, err
	}
	err = h.vol.read(func(dev block.Device) error {
		n, err = dev.ReadAt(p, off)
		return err
	})
	return n, err
}

// WriteAt implements block.Device.
func (h *handle) WriteAt(p []byte, off int64) (n int, err error) {
	err = h.change(func(dev block.Device) error {
		k, err := dev.WriteAt(p[n:], off+int64(n))
		n += k
		return err
	})
	return n, h.wrote(off, int64(len(p)), err)
}

// change runs a request that changes content. One that the volume's snapshots
// have no room for is run again when they have.
func (h *handle) change(f func(dev block.Device) error) error {
	var wait holdUp
	for {
		if err := h.writable(); err != nil {
			return err
		}
		err := h.vol.write(f)
		no := snap.LacksRoom(err)
		if no == nil {
			return err
		}
		if err := h.group.roomFor(h.group.life, h.vol.family, no, &wait); err != nil {
			return err
		}
	}
}

// Flush implements block.Device.
//
// A write to an origin may be acknowledged before it has reached the disk, and
// be lost there. That is reported as fsync reports it: by the next flush of
// every handle that was open then, whoever made the commit that failed, and if
// there was none, by the first flush of whoever opens the volume next.
func (h *handle) Flush() error {
	if err := h.usable(); err != nil {
		return err
	}
	told := h.told.Load() // before: of several flushes at once each reports
	err := h.vol.read(block.Device.Flush)
	if h.vol != h.vol.family.top {
		return err
	}
	if lost, _, reason := h.vol.family.origin.Lost(); lost > told {
		h.told.Store(lost)
		err = cmp.Or(err, reason)
	}
	return err
}

// Discard implements block.Device.
func (h *handle) Discard(off, length int64) error {
	err := h.change(func(dev block.Device) error { return dev.Discard(off, length) })
	return h.wrote(off, length, err)
}

// WriteZeroes implements block.Device.
func (h *handle) WriteZeroes(off, length int64) error {
	err := h.change(func(dev block.Device) error { return dev.WriteZeroes(off, length) })
	return h.wrote(off, length, err)
}

// Extents implements block.Device.
func (h *handle) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	if err := h.usable(); err != nil {
		return block.NoExtents(err)
	}
	return h.vol.extents(off, length)
}

// Size implements block.Device.
func (h *handle) Size() (n int64) {
	h.vol.read(func(dev block.Device) error {
		n = dev.Size()
		return nil
	})
	return n
}

// Caps implements block.Device.
func (h *handle) Caps() block.Caps {
	caps := h.caps
	caps.Waits = h.vol.family.waits.Load()
	return caps
}

// Close implements block.Device. The last one of a family deactivates it
// unless it was activated for longer, or starts a merge that waited for it.
func (h *handle) Close() error {
	if h.closed.Swap(true) {
		return errClosed
	}
	return h.group.release(h.vol)
}

var errClosed = errs.E(errs.Usage, "device is closed")

func (h *handle) usable() error {
	if h.closed.Load() {
		return errClosed
	}
	return nil
}

func (h *handle) writable() error {
	if h.caps.ReadOnly {
		return block.ErrReadOnly
	}
	return h.usable()
}
