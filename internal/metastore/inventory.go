package metastore

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"cowl/internal/errs"
	"cowl/internal/format/vgtext"
	"cowl/internal/volume"
)

// Inventory is what a set of PVs amounts to.
type Inventory struct {
	Groups   []*Found // by name, then identifier
	Orphans  []*PV    // PVs of no group, in the order given
	Problems []string // for people, of PVs that are in no group, and of groups with the same name
}

// Found is a group that was assembled from what its PVs say.
type Found struct {
	Group *volume.Group // the newest committed metadata
	PVs   []*PV         // beside Group.PVs, nil where the PV was not given

	// Outdated are PVs that say they are in the group, which no longer has
	// them: they were away when they were removed from it.
	Outdated []*PV

	Problems []string // for people
	// Unusable says why the group can be listed but not opened, nil if it can.
	Unusable error
}

// Missing returns the PVs that the group has and that were not given.
func (f *Found) Missing() []*volume.PV {
	var missing []*volume.PV
	for i, pv := range f.PVs {
		if pv == nil {
			missing = append(missing, f.Group.PVs[i])
		}
	}
	return missing
}

// Find returns the group of the given name. The error is of kind
// errs.NotFound, or errs.Conflict if several groups have the name.
func (inv *Inventory) Find(name string) (*Found, error) {
	var found *Found
	for _, f := range inv.Groups {
		if f.Group.Name != name {
			continue
		}
		if found != nil {
			return nil, errs.E(errs.Conflict, "Multiple VGs found with the same name: %s: %s and %s", name, found.Group.ID, f.Group.ID)
		}
		found = f
	}
	if found == nil {
		return nil, errs.E(errs.NotFound, "Volume group %q not found", name)
	}
	return found, nil
}

// Assemble sorts PVs into groups. For each group the text with the highest
// sequence number counts, wherever it was found. It never fails: what does not
// fit together is described in Problems.
func Assemble(pvs []*PV) *Inventory {
	a := &assembler{
		inv:    &Inventory{},
		byID:   map[volume.UUID]*PV{},
		twice:  map[volume.UUID]string{},
		read:   map[string]*volume.Group{},
		groups: map[volume.UUID]*Found{},
		owner:  map[*PV]*Found{},
	}
	for _, pv := range a.unique(pvs) {
		a.readTexts(pv)
	}
	for _, f := range a.sorted() {
		a.members(f)
	}
	for _, pv := range pvs {
		if a.owner[pv] == nil && a.byID[pv.ID()] == pv {
			a.leftover(pv)
		}
	}
	for i, f := range a.sorted() {
		a.judge(f)
		a.inv.Groups = append(a.inv.Groups, f)
		if i > 0 && a.inv.Groups[i-1].Group.Name == f.Group.Name {
			a.problem("WARNING: VG name %s is used by VGs %s and %s.", f.Group.Name, a.inv.Groups[i-1].Group.ID, f.Group.ID)
		}
	}
	return a.inv
}

// assembler is the state of one Assemble.
type assembler struct {
	inv    *Inventory
	byID   map[volume.UUID]*PV      // the first of each identifier
	twice  map[volume.UUID]string   // the path of another PV with the identifier
	read   map[string]*volume.Group // texts that were decoded, by text
	groups map[volume.UUID]*Found
	owner  map[*PV]*Found
}

func (a *assembler) problem(format string, args ...any) {
	a.inv.Problems = append(a.inv.Problems, fmt.Sprintf(format, args...))
}

func (f *Found) problem(format string, args ...any) {
	f.Problems = append(f.Problems, fmt.Sprintf(format, args...))
}

// unique leaves out PVs that have the identifier of one before them.
func (a *assembler) unique(pvs []*PV) []*PV {
	var out []*PV
	for _, pv := range pvs {
		if first := a.byID[pv.ID()]; first != nil {
			a.twice[pv.ID()] = pv.Path
			a.problem("WARNING: Not using device %s for PV %s, which %s is too.", pv.Path, pv.ID(), first.Path)
			continue
		}
		a.byID[pv.ID()] = pv
		out = append(out, pv)
	}
	return out
}

// readTexts reads what the PV's areas say and keeps the newest of each group.
func (a *assembler) readTexts(pv *PV) {
	for _, m := range pv.MDAs {
		if m.Damaged != nil || m.Ignored || m.Text == nil {
			continue
		}
		vg, err := a.decode(m.Text)
		if err != nil {
			m.damage(fmt.Errorf("%s: metadata area at byte %d: %w", pv.Path, m.Offset, err))
			continue
		}
		m.group = vg
		if f := a.groups[vg.ID]; f == nil {
			a.groups[vg.ID] = &Found{Group: vg}
		} else if vg.Seqno > f.Group.Seqno {
			f.Group = vg
		}
	}
}

// decode reads a text once, however many areas have it.
func (a *assembler) decode(text []byte) (*volume.Group, error) {
	if vg := a.read[string(text)]; vg != nil {
		return vg, nil
	}
	vg, err := vgtext.Decode(text)
	if err == nil {
		a.read[string(text)] = vg
	}
	return vg, err
}

// sorted returns the groups by name and identifier.
func (a *assembler) sorted() []*Found {
	return slices.SortedFunc(maps.Values(a.groups), func(x, y *Found) int {
		return cmp.Or(cmp.Compare(x.Group.Name, y.Group.Name), cmp.Compare(x.Group.ID, y.Group.ID))
	})
}

// members finds the group's PVs. One whose own metadata is another group's is
// not: it went there while this group did not see it.
func (a *assembler) members(f *Found) {
	f.PVs = make([]*PV, len(f.Group.PVs))
	for i, listed := range f.Group.PVs {
		pv := a.byID[listed.ID]
		if pv == nil || a.owner[pv] != nil || !pv.mayBelong(f.Group.ID) {
			continue
		}
		a.owner[pv] = f
		f.PVs[i] = pv
	}
}

// mayBelong reports whether the PV's own metadata, if it has any, is of the group.
func (pv *PV) mayBelong(group volume.UUID) bool {
	claims := false
	for _, m := range pv.MDAs {
		if m.group != nil {
			if m.group.ID == group {
				return true
			}
			claims = true
		}
	}
	return !claims
}

// leftover places a PV that no group lists.
func (a *assembler) leftover(pv *PV) {
	for _, m := range pv.MDAs {
		if m.group != nil {
			f := a.groups[m.group.ID]
			f.Outdated = append(f.Outdated, pv)
			f.problem("WARNING: outdated PV %s seqno %d has been removed in current VG %s seqno %d.",
				pv.Path, m.group.Seqno, f.Group.Name, f.Group.Seqno)
			return
		}
	}
	a.inv.Orphans = append(a.inv.Orphans, pv)
	for _, m := range pv.MDAs {
		if m.Damaged != nil {
			a.problem("WARNING: %v", m.Damaged)
		}
	}
	if pv.InUse() {
		a.problem("WARNING: PV %s is marked in use but no VG was found using it.", pv.Path)
	}
}

// judge describes what is wrong with a group, and whether it can be opened.
func (a *assembler) judge(f *Found) {
	for i, pv := range f.PVs {
		if pv == nil {
			a.judgeMissing(f, f.Group.PVs[i])
			continue
		}
		if path := a.twice[pv.ID()]; path != "" {
			f.unusable(errs.E(errs.Conflict, "Cannot change VG %s with duplicate PVs: %s and %s are both PV %s",
				f.Group.Name, pv.Path, path, pv.ID()))
		}
		if !pv.InUse() {
			f.problem("WARNING: PV %s in VG %s is missing the used flag in PV header.", pv.Path, f.Group.Name)
		}
		if have, want := pv.Dev.Size(), f.Group.PVs[i].DevSize.Bytes(); have < want {
			f.problem("WARNING: Device %s has size of %d sectors which is smaller than corresponding PV size of %d sectors.",
				pv.Path, sectors(have), sectors(want))
		}
		for _, m := range pv.MDAs {
			a.judgeMDA(f, m)
		}
	}
	if err := volume.Validate(f.Group); err != nil {
		f.problem("WARNING: %v", err)
		f.unusable(err)
	}
}

func (a *assembler) judgeMissing(f *Found, pv *volume.PV) {
	f.problem("WARNING: Couldn't find device with uuid %s.", pv.ID)
	f.problem("WARNING: VG %s is missing PV %s (last written to %s).", f.Group.Name, pv.ID, cmp.Or(pv.Device, "[unknown]"))
}

func (a *assembler) judgeMDA(f *Found, m *MDA) {
	switch {
	case m.Ignored:
	case m.Damaged != nil:
		f.problem("WARNING: %v", m.Damaged)
	case m.group == nil:
		f.problem("WARNING: PV %s: the metadata area at byte %d is empty.", m.PV.Path, m.Offset)
	case m.group.ID != f.Group.ID:
		f.problem("WARNING: PV %s of VG %s: the metadata area at byte %d is of VG %s.", m.PV.Path, f.Group.Name, m.Offset, m.group.Name)
	case m.group.Seqno < f.Group.Seqno:
		f.problem("WARNING: ignoring metadata seqno %d on %s for seqno %d of VG %s.",
			m.group.Seqno, m.PV.Path, f.Group.Seqno, f.Group.Name)
	case m.group != f.Group:
		f.problem("WARNING: %s has other metadata of VG %s under the same seqno %d.", m.PV.Path, f.Group.Name, f.Group.Seqno)
		f.unusable(errs.E(errs.Conflict, "VG %s: two different texts have seqno %d, one of them on %s",
			f.Group.Name, f.Group.Seqno, m.PV.Path))
	}
}

// unusable keeps the first reason.
func (f *Found) unusable(err error) {
	if f.Unusable == nil {
		f.Unusable = err
	}
}
