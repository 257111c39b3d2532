package manager

import (
	"cmp"
	"slices"

	"cowl/internal/metastore"
	"cowl/internal/volume"
)

// Inventory is what a Host sees.
type Inventory struct {
	Groups   []*GroupInfo // by name
	Orphans  []*PVInfo    // PVs of no group, by path
	Devices  []*PVInfo    // devices without a PV label, by path
	Warnings []string     // in LVM2's words, each once
}

// GroupInfo is a volume group with what runs of it.
type GroupInfo struct {
	Meta  *volume.Group
	LVs   map[string]LVStatus // by name; active volumes only
	PVs   []*PVInfo           // in the metadata's order
	Owner int                 // process id of the daemon that has the group active, 0 if none

	// Kernel: the kernel has volumes of the group active, not cowl.
	Kernel bool

	// Unusable says why the group can be listed but not opened, nil if it can.
	Unusable error
}

// PVInfo is a physical volume, or a device that could be one.
type PVInfo struct {
	PVStatus
	ID           volume.UUID
	Major, Minor uint32 // of a block device

	Labelled        bool  // false for devices without a label
	LabelSize       int64 // bytes, as the PV header has it
	PEStart         volume.Sectors
	BAStart, BASize volume.Sectors
	ExtVersion      uint32 // of the header's extension, 0 if it has none
	InUse           bool   // the header says that a group uses it
}

// Group returns the group of that name, nil without one.
func (inv *Inventory) Group(name string) *GroupInfo {
	for _, g := range inv.Groups {
		if g.Meta.Name == name {
			return g
		}
	}
	return nil
}

// PV returns the PV or plain device that has the name, and its group if it has
// one; nil if there is no such device.
func (inv *Inventory) PV(name string) (*PVInfo, *GroupInfo) {
	want := canonical(name)
	is := func(pv *PVInfo) bool { return !pv.Missing && canonical(pv.Path) == want }
	for _, g := range inv.Groups {
		if i := slices.IndexFunc(g.PVs, is); i >= 0 {
			return g.PVs[i], g
		}
	}
	for _, list := range [][]*PVInfo{inv.Orphans, inv.Devices} {
		if i := slices.IndexFunc(list, is); i >= 0 {
			return list[i], nil
		}
	}
	return nil, nil
}

func (inv *Inventory) sort() {
	byPath := func(a, b *PVInfo) int { return cmp.Compare(a.Path, b.Path) }
	slices.SortFunc(inv.Orphans, byPath)
	slices.SortFunc(inv.Devices, byPath)
	slices.SortStableFunc(inv.Groups, func(a, b *GroupInfo) int { return cmp.Compare(a.Meta.Name, b.Meta.Name) })
}

func (inv *Inventory) warn(texts ...string) {
	for _, w := range texts {
		if !slices.Contains(inv.Warnings, w) {
			inv.Warnings = append(inv.Warnings, w)
		}
	}
}

// describePV makes values of a PV that was read.
func describePV(pv *metastore.PV) *PVInfo {
	spec := pv.Spec()
	p := &PVInfo{
		PVStatus: describeState(pv.State()),
		ID:       pv.ID(), Labelled: true, LabelSize: int64(pv.Label.DevSize),
		PEStart: spec.PEStart, BAStart: spec.BAStart, BASize: spec.BASize,
		ExtVersion: pv.Label.Version, InUse: pv.InUse(),
	}
	p.Major, p.Minor = deviceNumber(pv.Path)
	return p
}

func describeState(st metastore.PVState) PVStatus {
	s := PVStatus{Path: st.Path, Size: st.Size}
	for _, m := range st.MDAs {
		s.MDAs = append(s.MDAs, MDAStatus(m))
	}
	return s
}

// missingPV stands for a PV that was not found.
func missingPV(pv *volume.PV) *PVInfo {
	return &PVInfo{PVStatus: PVStatus{Path: UnknownDevice, Missing: true}, ID: pv.ID}
}

// UnknownDevice is the path of a PV that is missing.
const UnknownDevice = "[unknown]"
