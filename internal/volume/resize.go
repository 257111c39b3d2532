package volume

import "cowl/internal/errs"

// minPVSectors is LVM2's smallest PV.
const minPVSectors Sectors = 4096

// ResizePV has a PV use so much of its device as pvresize does: it gains the
// extents that there is room for, or loses those behind, which must be free.
// path is for messages.
//
// Like LVM2's, the size in the metadata is from then on what the extents may
// take, without what lies before them.
func (g *Group) ResizePV(key, path string, size Sectors) (*Change, error) {
	if err := g.checkResizeable(); err != nil {
		return nil, err
	}
	next := g.Clone()
	pv := next.PV(key)
	if pv == nil {
		return nil, errs.E(errs.NotFound, "Physical Volume %q not found in Volume Group %q.", path, g.Name)
	}
	if err := CheckPVSize(path, size); err != nil {
		return nil, err
	}
	if size < pv.PEStart+g.ExtentSize {
		return nil, errs.E(errs.NoSpace, "Size must leave space for at least one physical extent of %d sectors on PV %s.", g.ExtentSize, path)
	}
	size = min(size, maxSectors) - pv.PEStart
	count := min(Extents(size/g.ExtentSize), MaxExtents)
	used := g.PVUsed(pv)
	switch {
	case count < used:
		return nil, errs.E(errs.NoSpace, "%s: cannot resize to %d extents as %d are allocated.", path, count, used)
	case count < g.lastUsed(pv):
		return nil, errs.E(errs.NoSpace, "%s: cannot resize to %d extents as later ones are allocated.", path, count)
	}
	pv.DevSize, pv.PECount = size, count
	return &Change{Group: next}, nil
}

// CheckPVSize refuses what is too small for a PV.
func CheckPVSize(path string, size Sectors) error {
	if size < minPVSectors {
		return errs.E(errs.NoSpace, "Size must exceed minimum of %d sectors on PV %s.", minPVSectors, path)
	}
	return nil
}

// lastUsed returns how many of a PV's first extents hold all that are allocated.
func (g *Group) lastUsed(pv *PV) Extents {
	var last Extents
	for _, r := range g.usedRuns(pv.Key) {
		last = max(last, r.Start+r.Count)
	}
	return last
}
