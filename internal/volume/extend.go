package volume

import (
	"cowl/internal/errs"
)

// ExtendLV makes a linear volume or a snapshot's COW store larger, as
// lvextend does.
func (g *Group) ExtendLV(spec ExtendSpec) (*Change, error) {
	lv, err := g.FindLV(spec.Name)
	if err != nil {
		return nil, err
	}
	if err := g.checkExtendable(lv); err != nil {
		return nil, err
	}
	next := g.Clone()
	c := &Change{Group: next, LVs: []string{spec.Name}}
	lv = next.LV(spec.Name)
	old := lv.Extents()
	maps, err := next.freeMaps(spec.PVs, c)
	if err != nil {
		return nil, err
	}
	want, err := next.extendedSize(lv, spec, maps, c)
	if err != nil {
		return nil, err
	}
	if s, ok := next.SnapshotOf(lv); ok {
		want = next.capCow(s, want, c)
	}
	switch {
	case want == old:
		return nil, errs.E(errs.Conflict, "New size (%d extents) matches existing size (%d extents).", want, old)
	case want < old:
		return nil, errs.E(errs.Conflict, "New size given (%d extents) not larger than existing size (%d extents)", want, old)
	}
	if err := next.grow(lv, want-old, maps, spec.Size.Of == OfFree); err != nil {
		return nil, err
	}
	now := lv.Extents()
	c.note("Size of logical volume %s/%s changed from %s (%d extents) to %s (%d extents).", g.Name, lv.Name,
		LongSize(g.ExtentBytes(old)), old, LongSize(g.ExtentBytes(now)), now)
	return c, nil
}

func (g *Group) checkExtendable(lv *LV) error {
	if err := g.checkSupported(lv); err != nil {
		return err
	}
	if s, ok := g.SnapshotOf(lv); ok && s.Segment.Merging {
		return errs.E(errs.Conflict, "Can't resize internal logical volume %s/%s.", g.Name, lv.Name)
	}
	if len(lv.Segments) == 0 || len(lv.Segments[len(lv.Segments)-1].Stripes) != 1 {
		return errs.E(errs.Unsupported, "Logical volume %s/%s is striped; cowl extends linear volumes only.", g.Name, lv.Name)
	}
	return nil
}

// extendedSize returns the number of extents that the spec asks for in all.
func (g *Group) extendedSize(lv *LV, spec ExtendSpec, maps []pvMap, c *Change) (Extents, error) {
	old := lv.Extents()
	n := spec.Size.Extents
	switch {
	case spec.Size.IsZero():
		return 0, errs.E(errs.Usage, "--size may not be zero.")
	case spec.Size.Bytes > 0:
		n = g.ExtentsFor(spec.Size.Bytes)
		if rounded := g.ExtentBytes(n); rounded != spec.Size.Bytes {
			c.note("Rounding size to boundary between physical extents: %s.", LongSize(rounded))
		}
	case spec.Size.Percent > 0:
		var err error
		if n, err = g.extendPercent(lv, spec, maps); err != nil {
			return 0, err
		}
	}
	if spec.Relative {
		n += old
	}
	if n > MaxExtents {
		return 0, errs.E(errs.NoSpace, "Insufficient free space: %d extents needed, but only %d available", n-min(n, old), g.Free())
	}
	return n, nil
}

func (g *Group) extendPercent(lv *LV, spec ExtendSpec, maps []pvMap) (Extents, error) {
	switch spec.Size.Of {
	case OfLV:
		return percent(spec.Size.Percent, lv.Extents(), true), nil
	case OfOrigin:
		s, ok := g.SnapshotOf(lv)
		if !ok {
			return 0, errs.E(errs.Conflict, "Specified LV does not have an origin LV.")
		}
		return percent(spec.Size.Percent, s.Origin.Extents(), true), nil
	}
	return g.percentOf(spec.Size, maps, spec.PVs != nil, true)
}

// capCow bounds a store's new size by the largest useful one.
func (g *Group) capCow(s Snap, want Extents, c *Change) Extents {
	limit := g.ExtentsFor(CowMax(g.ExtentBytes(s.Origin.Extents()), s.Segment.ChunkSize))
	limit = max(limit, s.Cow.Extents())
	if want > limit {
		c.note("Reached maximum COW size %s (%d extents).", LongSize(g.ExtentBytes(limit)), limit)
		want = limit
	}
	return want
}
