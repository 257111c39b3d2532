package volume

import (
	"slices"

	"cowl/internal/errs"
)

// Every operation is a method that leaves its receiver alone and returns a
// Change with an altered clone, or an error and nothing. The group's sequence
// number is not touched: it counts what is written, and is metastore's.

// Change is what an operation made of a group.
type Change struct {
	Group *Group
	LVs   []string // names of what was created, changed or removed, in LVM2's order
	Notes []string // LVM2's remarks on the way: rounding, reduced sizes
}

// Stamp is what operations need of the world.
type Stamp struct {
	NewID func() UUID // returns a fresh identifier at each call
	Time  int64       // seconds since the epoch
	Host  string      // for creation_host
}

// DefaultExtentSize is LVM2's: 4 MiB.
const DefaultExtentSize Sectors = 4 << 20 >> 9

// MaxExtents bounds the extents of a PV and of an LV, as LVM2's 32-bit counts do.
const MaxExtents Extents = 1<<32 - 1

// CheckExtentSize returns an error of kind errs.Usage unless LVM2 would take
// the extent size for a new group: a power of 2 of at least 1 KiB, or a
// multiple of 128 KiB.
func CheckExtentSize(s Sectors) error {
	const step Sectors = 128 << 10 >> 9
	switch {
	case s == 0:
		return errs.E(errs.Usage, "Physical extent size may not be zero")
	case s < 2:
		return errs.E(errs.Usage, "Physical Extent size must be a power of 2 of at least 1.00 KiB.")
	case s&(s-1) != 0 && s%step != 0:
		return errs.E(errs.Usage, "Physical Extent size must be a multiple of %s when not a power of 2.", LongSize(step.Bytes()))
	case s >= 1<<32:
		return errs.E(errs.Usage, "Physical extent size must be smaller than 2.00 TiB")
	}
	return nil
}

// NewGroup returns a group with the PVs of the spec and no volumes, never
// written yet (Seqno 0).
func NewGroup(spec GroupSpec, s Stamp) (*Group, error) {
	if err := CheckGroupName(spec.Name); err != nil {
		return nil, err
	}
	if spec.ExtentSize == 0 {
		spec.ExtentSize = DefaultExtentSize
	}
	if err := CheckExtentSize(spec.ExtentSize); err != nil {
		return nil, err
	}
	for _, t := range spec.Tags {
		if err := CheckTag(t); err != nil {
			return nil, err
		}
	}
	g := &Group{
		Name: spec.Name, ID: s.NewID(), Format: "lvm2",
		Status: []string{StatusResizeable, StatusRead, StatusWrite},
		Tags:   slices.Clone(spec.Tags), ExtentSize: spec.ExtentSize,
		MaxLV: spec.MaxLV, MaxPV: spec.MaxPV, Allocation: spec.Allocation,
		MetadataCopies: spec.MetadataCopies,
	}
	for _, pv := range spec.PVs {
		if err := g.addPV(pv); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// AddPV adds a physical volume, as vgextend does.
func (g *Group) AddPV(spec PVSpec) (*Change, error) {
	if err := g.checkResizeable(); err != nil {
		return nil, err
	}
	next := g.Clone()
	if err := next.addPV(spec); err != nil {
		return nil, err
	}
	return &Change{Group: next}, nil
}

func (g *Group) checkResizeable() error {
	if !g.Has(StatusResizeable) {
		return errs.E(errs.Conflict, "Volume group %q is not resizeable.", g.Name)
	}
	return nil
}

func (g *Group) addPV(spec PVSpec) error {
	if g.MaxPV > 0 && uint64(len(g.PVs)) >= g.MaxPV {
		return errs.E(errs.Conflict, "No space for '%s' - volume group '%s' holds max %d physical volume(s).", spec.Device, g.Name, g.MaxPV)
	}
	if g.PVByID(spec.ID) != nil {
		return errs.E(errs.Exists, "Physical volume '%s' is already in volume group '%s'", spec.Device, g.Name)
	}
	if !spec.ID.Valid() || spec.DevSize < spec.PEStart {
		return errs.E(errs.Usage, "Physical volume '%s' cannot be used: its data would start at sector %d of %d", spec.Device, spec.PEStart, spec.DevSize)
	}
	size := spec.DevSize - spec.PEStart
	if spec.DataSize > 0 {
		size = min(size, spec.DataSize)
	}
	g.PVs = append(g.PVs, &PV{
		Key: g.nextPVKey(), ID: spec.ID, Device: spec.Device,
		DeviceIDType: spec.DeviceIDType, DeviceID: spec.DeviceID,
		Status: []string{StatusAllocatable}, Tags: slices.Clone(spec.Tags),
		DevSize: spec.DevSize, PEStart: spec.PEStart,
		PECount: min(Extents(size/g.ExtentSize), MaxExtents),
		BAStart: spec.BAStart, BASize: spec.BASize,
	})
	return nil
}

// RemovePV removes a physical volume of which nothing is allocated, as
// vgreduce does. The group must keep one.
func (g *Group) RemovePV(key string) (*Change, error) {
	pv := g.PV(key)
	switch {
	case pv == nil:
		return nil, errs.E(errs.NotFound, "Physical Volume %q not found in Volume Group %q.", key, g.Name)
	case g.PVUsed(pv) > 0:
		return nil, errs.E(errs.Busy, "Physical volume %q still in use", pv.Device)
	case len(g.PVs) == 1:
		return nil, errs.E(errs.Conflict, "Can't remove final physical volume %q from volume group %q", pv.Device, g.Name)
	}
	if err := g.checkResizeable(); err != nil {
		return nil, err
	}
	next := g.Clone()
	next.PVs = slices.DeleteFunc(next.PVs, func(p *PV) bool { return p.Key == key })
	return &Change{Group: next}, nil
}

// ChangeTags adds tags to an LV and then removes others, as lvchange does. A tag
// that is there already, or not, is none to complain of. One of cowl's own
// takes the place of its kind.
func (g *Group) ChangeTags(name string, add, remove []string) (*Change, error) {
	lv, err := g.FindLV(name)
	if err != nil {
		return nil, err
	}
	for _, t := range add {
		if err := checkNewTag(t); err != nil {
			return nil, err
		}
	}
	next := g.Clone()
	lv = next.LV(name)
	for _, t := range add {
		lv.Tags = slices.DeleteFunc(lv.Tags, func(old string) bool { return old == t || replaces(t, old) })
		lv.Tags = append(lv.Tags, t)
	}
	lv.Tags = slices.DeleteFunc(lv.Tags, func(t string) bool { return slices.Contains(remove, t) })
	return &Change{Group: next, LVs: []string{name}}, nil
}

// checkNewTag checks a tag that a person gives an LV.
func checkNewTag(tag string) error {
	if err := CheckTag(tag); err != nil {
		return err
	}
	if _, _, err := parseMergeRate(tag); err != nil {
		return err
	}
	return CheckGrowthTag(tag)
}

// SetReadOnly changes an LV's permission, as lvchange -p does.
func (g *Group) SetReadOnly(name string, readOnly bool) (*Change, error) {
	lv, err := g.FindLV(name)
	if err != nil {
		return nil, err
	}
	if err := g.checkSupported(lv); err != nil {
		return nil, err
	}
	if lv.ReadOnly() == readOnly {
		word := "writable"
		if readOnly {
			word = "read only"
		}
		return nil, errs.E(errs.Conflict, "Logical volume \"%s/%s\" is already %s.", g.Name, name, word)
	}
	next := g.Clone()
	lv = next.LV(name)
	if readOnly {
		lv.Status = slices.DeleteFunc(lv.Status, func(w string) bool { return w == StatusWrite })
	} else {
		at := slices.Index(lv.Status, StatusRead) + 1
		lv.Status = slices.Insert(lv.Status, at, StatusWrite)
	}
	return &Change{Group: next, LVs: []string{name}}, nil
}
