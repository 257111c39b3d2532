package engine

import (
	"errors"
	"fmt"
	"math"

	"cowl/internal/errs"
	"cowl/internal/volume"
)

// A PV may be a sparse file. Then a store can have free chunks for which the
// file system below has no room: that would only be found out by the commit
// that writes them, when it is too late for a policy. So where the policy has
// something to say, a store's next chunks are given their place in advance, and
// only those count as free (snap.Store.Limit). A write that finds none asks as
// it does for a longer store.

// aheadLeast and aheadMost bound how many bytes of a store are given their place
// in advance: as many as it has in use, within these bounds. Twice what a commit
// has under way keeps writes from waiting for their chunks.
const (
	aheadLeast = 16 << 20
	aheadMost  = 64 << 20

	// aheadBit is too little to ask for ahead.
	aheadBit = 64 << 10
)

// ahead returns how much of a store is given its place ahead of what is in use.
func ahead(used int64) int64 { return min(max(used, aheadLeast), aheadMost) }

// preallocates reports whether a snapshot's store gets its place in advance.
func (g *Group) preallocates(growth volume.Growth) bool {
	return g.opts.Growth.AllocatePV != nil && growth.OnFull != "" && growth.OnFull != volume.OnFullInvalidate
}

// preallocate gives a store's next chunks, so many bytes, their place below, and
// those behind them if there is room. What it does not reach is no room. The
// caller holds changes.
func (g *Group) preallocate(v *vol, need int64) error {
	s := &v.supply
	if !g.preallocates(s.Growth) {
		s.placed, s.placeMark = 0, math.MaxInt64
		v.store.Limit(math.MaxInt64)
		return nil
	}
	size, used := v.base.Size(), v.store.Usage().Allocated
	least := min(v.store.Reach(max(need, 1)), size)
	most := min(max(least, used+ahead(used)), size)
	err := g.place(v, most)
	if s.placeMark = math.MaxInt64; err == nil && s.placed < size {
		s.placeMark = s.placed - ahead(used)/2
	}
	for errs.Is(err, errs.NoSpace) && least < most { // as much as there is, roughly
		if most = least + (most-least)/2; most-least < aheadBit {
			most = least
		}
		err = g.place(v, most)
	}
	if err != nil {
		return fmt.Errorf("the file system below has no room for its next chunks: %w", err)
	}
	return nil
}

// place gives a store's first bytes their place below. Those in use are asked
// for as well, once: areas of a new store are holes.
func (g *Group) place(v *vol, to int64) error {
	s := &v.supply
	at := s.placed
	for part := range v.base.dev.Load().Parts(at, v.base.Size()-at) {
		if at >= to {
			break
		}
		n := min(part.Len, to-at)
		switch err := g.opts.Growth.AllocatePV(part.Dev, part.Off, n); {
		case errors.Is(err, errors.ErrUnsupported):
			n = part.Len
		case err != nil:
			v.store.Limit(s.placed)
			return err
		}
		at += n
		s.placed = at
	}
	v.store.Limit(s.placed)
	return nil
}

// placeMetadata gives the metadata of the PVs that lies before their extents its
// place below, where there is room: so that a snapshot can be removed when there is
// none any more.
func (g *Group) placeMetadata() {
	if g.opts.Growth.AllocatePV == nil {
		return
	}
	for _, pv := range g.model.PVs {
		dev := g.devs[pv.ID]
		if dev == nil || dev.Caps().ReadOnly {
			continue
		}
		err := g.opts.Growth.AllocatePV(dev, 0, min(pv.PEStart.Bytes(), dev.Size()))
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			g.opts.Log.Warn("metadata may find no room", "pv", pv.Device, "err", err)
		}
	}
}
