package volume

import (
	"fmt"
	"math/bits"
	"slices"

	"cowl/internal/errs"
)

// CreateLV allocates a linear volume.
func (g *Group) CreateLV(spec LVSpec, s Stamp) (*Change, error) {
	if spec.Name == "" {
		spec.Name = g.NextLVName()
	}
	if err := g.checkNewLV(spec.Name, spec.Tags, 1); err != nil {
		return nil, err
	}
	next := g.Clone()
	c := &Change{Group: next, LVs: []string{spec.Name}}
	lv := newLV(spec.Name, spec.Tags, spec.ReadOnly, s)
	lv.Status = append(lv.Status, StatusVisible)
	if spec.Contiguous {
		lv.Allocation = AllocContiguous
	}
	maps, err := next.freeMaps(spec.PVs, c)
	if err != nil {
		return nil, err
	}
	need, err := next.newExtents(spec.Size, maps, spec.PVs != nil, c)
	if err != nil {
		return nil, err
	}
	if err := next.growNew(lv, need, spec.Size, maps); err != nil {
		return nil, err
	}
	next.LVs = append(next.LVs, lv)
	next.sortVisible()
	return c, nil
}

// checkNewLV checks what must hold for any new LV under the name; the group
// must have room for count more.
func (g *Group) checkNewLV(name string, tags []string, count uint64) error {
	if err := CheckLVName(name); err != nil {
		return err
	}
	if g.LV(name) != nil {
		return errs.E(errs.Exists, "Logical Volume %q already exists in volume group %q", name, g.Name)
	}
	if len(DMName(g.Name, name)) > maxDMName {
		return errs.E(errs.Usage, "Logical volume name %q is too long together with its volume group's name %q.", name, g.Name)
	}
	for _, t := range tags {
		if err := checkNewTag(t); err != nil {
			return err
		}
	}
	if visible := uint64(len(g.Visible())); g.MaxLV > 0 && visible+count > g.MaxLV {
		return errs.E(errs.Conflict, "Maximum number of logical volumes (%d) reached in volume group %s", g.MaxLV, g.Name)
	}
	return nil
}

func newLV(name string, tags []string, readOnly bool, s Stamp) *LV {
	lv := &LV{
		Name: name, ID: s.NewID(), Status: []string{StatusRead},
		Tags: slices.Clone(tags), CreationTime: s.Time, CreationHost: s.Host,
	}
	if !readOnly {
		lv.Status = append(lv.Status, StatusWrite)
	}
	return lv
}

// sortVisible brings the LVs into the order in which LVM2 writes them: the
// visible ones first, otherwise as they were.
func (g *Group) sortVisible() {
	visible := make(map[*LV]bool, len(g.LVs))
	for _, v := range g.Visible() {
		visible[v] = true
	}
	slices.SortStableFunc(g.LVs, func(a, b *LV) int {
		switch {
		case visible[a] == visible[b]:
			return 0
		case visible[a]:
			return -1
		}
		return 1
	})
}

// newExtents returns how many extents a size asks for, with LVM2's remarks
// added to the change.
func (g *Group) newExtents(size Size, maps []pvMap, named bool, c *Change) (Extents, error) {
	n := size.Extents
	switch {
	case size.Bytes < 0:
		return 0, errs.E(errs.Usage, "Size may not be negative.")
	case size.Bytes > 0:
		n = g.ExtentsFor(size.Bytes)
		if rounded := g.ExtentBytes(n); rounded != size.Bytes {
			c.note("Rounding up size to full physical extent %s", LongSize(rounded))
		}
	case size.Percent > 0:
		var err error
		if n, err = g.percentOf(size, maps, named, false); err != nil {
			return 0, err
		}
		if free := g.Free(); size.Of == OfVG && n > free {
			c.note("Reducing %d%%%s to remaining free space %s in VG.", size.Percent, size.Of, LongSize(g.ExtentBytes(free)))
			n = free
		}
	}
	switch {
	case n == 0:
		return 0, errs.E(errs.NoSpace, "Calculated size of logical volume is 0 extents. Needs to be larger.")
	case n > MaxExtents:
		return 0, errs.E(errs.NoSpace, "Volume group %q has insufficient free space (%d extents): %d required.", g.Name, g.Free(), n)
	}
	return n, nil
}

// percentOf resolves N%VG, N%FREE and N%PVS, the last being of what is free
// on the PVs if some were named.
func (g *Group) percentOf(size Size, maps []pvMap, named, up bool) (Extents, error) {
	switch {
	case size.Of == OfPVs && named:
		return percent(size.Percent, mapsTotal(maps), up), nil
	case size.Of == OfVG || size.Of == OfPVs:
		return percent(size.Percent, g.Size(), up), nil
	case size.Of == OfFree:
		return percent(size.Percent, g.Free(), up), nil
	}
	return 0, errs.E(errs.Usage, "Please express size as %%FREE, %%PVS or %%VG.")
}

// percent returns n percent of the extents, rounded down or up. What does not
// fit 64 bits is more than any group has.
func percent(n uint64, of Extents, up bool) Extents {
	hi, lo := bits.Mul64(n, uint64(of))
	if hi >= 100 {
		return 1 << 63
	}
	q, rem := bits.Div64(hi, lo, 100)
	if up && rem > 0 {
		q++
	}
	return Extents(min(q, 1<<63))
}

// growNew allocates a new LV's extents.
func (g *Group) growNew(lv *LV, need Extents, size Size, maps []pvMap) error {
	approximate := size.Percent > 0
	if free := g.Free(); need > free && !approximate {
		return errs.E(errs.NoSpace, "Volume group %q has insufficient free space (%d extents): %d required.", g.Name, free, need)
	}
	return g.grow(lv, need, maps, approximate)
}

func (c *Change) note(format string, args ...any) {
	c.Notes = append(c.Notes, fmt.Sprintf(format, args...))
}
