// Package fields is the table of LVM2's report fields over cowl's model: what
// pvs, vgs and lvs can show, sort by and select by, which rows there are, and
// which columns each command shows by default. Package report does the rest.
//
// Fields of things that cowl does not run (RAID, caches, thin pools, VDO) are
// there and hold what LVM2 shows for linear volumes and snapshots.
package fields

import (
	"cmp"
	"slices"

	"cowl/internal/manager"
	"cowl/internal/volume"
)

// Data is what a report is made of.
type Data struct {
	Groups  []*Group // by name
	Orphans []*PV    // in no group, by path
	Devices []*PV    // without a PV label, for pvs -a; by path
}

// Sort puts everything into the order in which it is shown without a sort key.
func (d *Data) Sort() {
	slices.SortFunc(d.Groups, func(a, b *Group) int { return cmp.Compare(a.Meta.Name, b.Meta.Name) })
	byPath := func(a, b *PV) int { return cmp.Compare(a.Path, b.Path) }
	slices.SortFunc(d.Orphans, byPath)
	slices.SortFunc(d.Devices, byPath)
}

// Group is a volume group with what is looked up often.
type Group struct {
	Meta  *volume.Group
	State map[string]manager.LVStatus // active volumes, by name
	PVs   []*PV                       // in the metadata's order

	// Only names the volumes that a report is about; nil means all that the
	// options ask for.
	Only map[string]bool

	visible map[*volume.LV]bool
	stores  map[*volume.LV]volume.Snap   // by COW store
	origins map[*volume.LV][]volume.Snap // by origin, in the metadata's order
	pvByKey map[string]*PV
	missing map[*volume.LV]bool // volumes with extents on a missing PV
}

// PV is a physical volume, or a device that could be one.
type PV struct {
	Path         string // "[unknown]" if it is missing
	ID           volume.UUID
	DevSize      int64 // bytes
	Major, Minor uint32

	Labelled        bool // it has a PV label; false for plain devices
	LabelSize       int64
	PEStart         volume.Sectors
	BAStart, BASize volume.Sectors
	ExtVersion      uint32
	InUse           bool // the label says that a group uses it
	MDAs            []manager.MDAStatus
	Missing         bool

	Group *Group     // nil if in none
	Meta  *volume.PV // what its group says of it, nil if in none
}

// UnknownDevice is the path of a PV that is missing.
const UnknownDevice = "[unknown]"

// NewGroup indexes a group. It sets Group and Meta of the PVs, which are in
// the metadata's order.
func NewGroup(meta *volume.Group, state map[string]manager.LVStatus, pvs []*PV) *Group {
	g := &Group{
		Meta: meta, State: state, PVs: pvs,
		visible: map[*volume.LV]bool{},
		stores:  map[*volume.LV]volume.Snap{},
		origins: map[*volume.LV][]volume.Snap{},
		pvByKey: map[string]*PV{},
		missing: map[*volume.LV]bool{},
	}
	for i, pv := range pvs {
		pv.Group, pv.Meta = g, meta.PVs[i]
		g.pvByKey[pv.Meta.Key] = pv
	}
	for _, s := range meta.Snapshots() {
		g.stores[s.Cow] = s
		g.origins[s.Origin] = append(g.origins[s.Origin], s)
	}
	for _, lv := range meta.Visible() {
		g.visible[lv] = true
	}
	for _, lv := range meta.LVs {
		g.missing[lv] = g.lacksPV(lv)
	}
	return g
}

// lacksPV reports whether a segment of the LV is on a missing PV.
func (g *Group) lacksPV(lv *volume.LV) bool {
	for _, s := range lv.Segments {
		for _, a := range s.Stripes {
			if pv := g.pvByKey[a.PV]; pv != nil && pv.Missing {
				return true
			}
		}
	}
	return false
}

// Partial reports whether a PV of the group is missing.
func (g *Group) Partial() bool { return g.MissingPVs() > 0 }

// MissingPVs counts the PVs that are missing.
func (g *Group) MissingPVs() int {
	n := 0
	for _, pv := range g.PVs {
		if pv.Missing {
			n++
		}
	}
	return n
}

// Visible reports whether a volume is shown without -a.
func (g *Group) Visible(lv *volume.LV) bool { return g.visible[lv] }

// isInternal tells the volumes that are never shown: the holders of snapshots.
func isInternal(lv *volume.LV) bool {
	return len(lv.Segments) > 0 && lv.Segments[0].Type == volume.Snapshot
}

// Snapshot returns the snapshot whose COW store the volume is.
func (g *Group) Snapshot(lv *volume.LV) (volume.Snap, bool) {
	s, ok := g.stores[lv]
	return s, ok
}

// Snapshots returns the snapshots of an origin.
func (g *Group) Snapshots(lv *volume.LV) []volume.Snap { return g.origins[lv] }

// Merging returns the snapshot that is being merged into the volume.
func (g *Group) Merging(lv *volume.LV) (volume.Snap, bool) {
	for _, s := range g.origins[lv] {
		if s.Segment.Merging {
			return s, true
		}
	}
	return volume.Snap{}, false
}

// Path returns the path of the PV with the metadata key.
func (g *Group) Path(key string) string {
	if pv := g.pvByKey[key]; pv != nil {
		return pv.Path
	}
	return UnknownDevice
}

// MDAs counts the metadata areas of the group's PVs and those in use.
func (g *Group) MDAs() (all, used int) {
	for _, pv := range g.PVs {
		a, u := pv.countMDAs()
		all, used = all+a, used+u
	}
	return all, used
}

func (pv *PV) countMDAs() (all, used int) {
	for _, m := range pv.MDAs {
		if !m.Ignored {
			used++
		}
	}
	return len(pv.MDAs), used
}

// free returns how many bytes a text could still grow in a metadata area, in
// whole sectors: half of the area, less its header's share and the present
// text. An area that is ignored takes none.
func free(m manager.MDAStatus) int64 {
	if m.Ignored {
		return 0
	}
	return max(0, (m.Size-512)/2-512-m.TextSize) &^ 511
}

func size(m manager.MDAStatus) int64 { return m.Size }

// least returns the smallest value among metadata areas, 0 if there are none.
func least(mdas []manager.MDAStatus, of func(manager.MDAStatus) int64) int64 {
	if len(mdas) == 0 {
		return 0
	}
	n := of(mdas[0])
	for _, m := range mdas[1:] {
		n = min(n, of(m))
	}
	return n
}

// usedMDAs returns the metadata areas of the group's PVs that are in use.
func (g *Group) usedMDAs() []manager.MDAStatus {
	var used []manager.MDAStatus
	for _, pv := range g.PVs {
		for _, m := range pv.MDAs {
			if !m.Ignored {
				used = append(used, m)
			}
		}
	}
	return used
}
