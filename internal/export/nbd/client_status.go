package nbd

import (
	"fmt"
	"iter"

	"cowl/internal/block"
)

// Extents implements block.Device, by asking the server for block status.
func (d *Device) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	if err := block.CheckRange(off, length, d.size); err != nil {
		return block.NoExtents(err)
	}
	if d.allocation < 0 {
		return block.OneExtent(block.Extent{Off: off, Len: length})
	}
	return block.Coalesce(func(yield func(block.Extent, error) bool) {
		for at, end := off, off+length; at < end; {
			extents, err := d.blockStatus(at, min(end-at, maxSpan))
			if err != nil {
				yield(block.Extent{}, fmt.Errorf("nbd block status at %d: %w", at, err))
				return
			}
			for _, e := range extents {
				if !yield(e, nil) {
					return
				}
				at = e.End()
			}
		}
	})
}

// blockStatus asks once, and returns at least one extent from off on.
func (d *Device) blockStatus(off, length int64) ([]block.Extent, error) {
	c := call{
		request: request{cmd: cmdBlockStatus, off: uint64(off), length: uint32(length)},
		status:  map[int64][]descriptor{d.allocation: nil},
	}
	if d.depth >= 0 {
		c.status[d.depth] = nil
	}
	if err := d.do(&c, nil); err != nil {
		return nil, err
	}
	depths := c.status[d.depth]
	if len(depths) == 0 {
		depths = []descriptor{{uint32(length), 0}}
	}
	return mergeStatus(off, length, c.status[d.allocation], depths), nil
}

// mergeStatus lays two contexts' answers over each other, as far as both go and
// at most to off+length. Neither is empty.
func mergeStatus(off, length int64, kinds, depths []descriptor) []block.Extent {
	var extents []block.Extent
	k, depth := kinds[0], depths[0]
	for length > 0 {
		n := min(int64(k.length), int64(depth.length), length)
		extents = append(extents, extentOf(off, n, k.state, depth.state))
		off, length = off+n, length-n

		if k.length -= uint32(n); k.length == 0 {
			if kinds = kinds[1:]; len(kinds) == 0 {
				break
			}
			k = kinds[0]
		}
		if depth.length -= uint32(n); depth.length == 0 {
			if depths = depths[1:]; len(depths) == 0 {
				break
			}
			depth = depths[0]
		}
	}
	return extents
}

// extentOf is the inverse of stateOf. A hole's depth is not told.
func extentOf(off, length int64, kind, depth uint32) block.Extent {
	e := block.Extent{Off: off, Len: length, Depth: max(int(depth), 1) - 1}
	switch {
	case kind&stateZero == 0:
		e.Kind = block.Data
	case kind&stateHole == 0:
		e.Kind = block.Zero
	default:
		e.Kind = block.Hole
	}
	return e
}
