package volume

import (
	"cmp"
	"slices"

	"cowl/internal/errs"
)

// Allocation policies as the metadata names them.
const (
	AllocContiguous = "contiguous"
	AllocCling      = "cling"
	AllocNormal     = "normal"
	AllocAnywhere   = "anywhere"
	AllocInherit    = "inherit"
)

// pvMap holds the free areas of one PV, largest first, equal ones in their
// order on the PV.
type pvMap []Run

// allocator finds space for one linear volume the way LVM2 does, so that both
// leave the same layout behind: policies are tried from the strictest to the
// one that applies, and what a stricter one found is kept.
type allocator struct {
	maps []pvMap // in the group's order, or in that of the command line
	need Extents
	got  []Run
}

// freeMaps returns what may be allocated: of the PVs that the ranges name, or
// of all.
func (g *Group) freeMaps(ranges []PVRange) ([]pvMap, error) {
	var maps []pvMap
	if ranges == nil {
		for _, pv := range g.PVs {
			if pv.allocatable() {
				maps = append(maps, newPVMap(g.FreeRuns(pv)))
			}
		}
		return maps, nil
	}
	byKey := map[string][]PVRange{}
	var order []string
	for _, r := range ranges {
		if _, seen := byKey[r.PV]; !seen {
			order = append(order, r.PV)
		}
		byKey[r.PV] = append(byKey[r.PV], r)
	}
	for _, key := range order {
		pv := g.PV(key)
		if pv == nil {
			return nil, errs.E(errs.NotFound, "Physical Volume %q not found in Volume Group %q.", key, g.Name)
		}
		if !pv.allocatable() {
			return nil, errs.E(errs.NoSpace, "Physical volume %q is not allocatable.", pv.Device)
		}
		runs, err := clipRuns(g.FreeRuns(pv), pv, byKey[key])
		if err != nil {
			return nil, err
		}
		maps = append(maps, newPVMap(runs))
	}
	return maps, nil
}

// clipRuns returns the parts of the free runs that lie in the ranges.
func clipRuns(free []Run, pv *PV, ranges []PVRange) ([]Run, error) {
	if slices.ContainsFunc(ranges, func(r PVRange) bool { return r.Whole }) {
		return free, nil
	}
	ranges = slices.Clone(ranges)
	slices.SortStableFunc(ranges, func(a, b PVRange) int { return cmp.Compare(a.Start, b.Start) })
	var out []Run
	for i, r := range ranges {
		if i > 0 && r.Start <= ranges[i-1].End {
			p := ranges[i-1]
			return nil, errs.E(errs.Usage, "Overlapping PE ranges specified (%d-%d, %d-%d) on %s", p.Start, p.End, r.Start, r.End, pv.Device)
		}
		if r.Start >= pv.PECount {
			return nil, errs.E(errs.Usage, "PE range error: start extent %d to end extent %d.", r.Start, r.End)
		}
		for _, f := range free {
			start, end := max(f.Start, r.Start), min(f.End(), r.End+1)
			if start < end {
				out = append(out, Run{PV: pv.Key, Start: start, Count: end - start})
			}
		}
	}
	return out, nil
}

func newPVMap(runs []Run) pvMap {
	m := pvMap(runs)
	slices.SortStableFunc(m, func(a, b Run) int { return cmp.Compare(b.Count, a.Count) })
	return m
}

func mapsTotal(maps []pvMap) Extents {
	var n Extents
	for _, m := range maps {
		n += total(m)
	}
	return n
}

// take allocates the first n extents of area i of a map.
func (a *allocator) take(m, i int, n Extents) {
	r := a.maps[m][i]
	a.got = append(a.got, Run{PV: r.PV, Start: r.Start, Count: n})
	a.need -= n
	a.maps[m] = slices.Delete(a.maps[m], i, i+1)
	if n == r.Count {
		return
	}
	rest := Run{PV: r.PV, Start: r.Start + n, Count: r.Count - n}
	at, _ := slices.BinarySearchFunc(a.maps[m], rest.Count, func(x Run, count Extents) int {
		if x.Count >= count {
			return -1
		}
		return 1
	})
	a.maps[m] = slices.Insert(a.maps[m], at, rest)
}

// contiguous takes the area right behind the last one, or for a new volume
// the first PV's whose largest area is large enough.
func (a *allocator) contiguous(last *Run) {
	for m := range a.maps {
		if last == nil {
			if len(a.maps[m]) > 0 && a.maps[m][0].Count >= a.need {
				a.take(m, 0, a.need)
				return
			}
			continue
		}
		for i, r := range a.maps[m] {
			if r.PV == last.PV && r.Start == last.End() {
				a.take(m, i, min(a.need, r.Count))
				return
			}
		}
	}
}

// cling takes areas of the PV that the volume ends on, the largest first.
func (a *allocator) cling(last *Run) {
	if last == nil {
		return
	}
	for m := range a.maps {
		for a.need > 0 && len(a.maps[m]) > 0 && a.maps[m][0].PV == last.PV {
			a.take(m, 0, min(a.need, a.maps[m][0].Count))
		}
	}
}

// normal takes the PVs' largest areas, the most useful first.
func (a *allocator) normal() {
	for a.need > 0 {
		best, most := -1, Extents(0)
		for m := range a.maps {
			if len(a.maps[m]) == 0 {
				continue
			}
			if n := min(a.need, a.maps[m][0].Count); n > most {
				best, most = m, n
			}
		}
		if best < 0 {
			return
		}
		a.take(best, 0, most)
	}
}

// policyOf resolves inherit.
func (g *Group) policyOf(lv *LV) string {
	for _, p := range []string{lv.Allocation, g.Allocation} {
		if p != "" && p != AllocInherit {
			return p
		}
	}
	return AllocNormal
}

// allocate finds need extents to append to the LV, and returns what it found,
// which is less when there is not enough.
func (g *Group) allocate(lv *LV, need Extents, maps []pvMap) []Run {
	a := &allocator{maps: maps, need: need}
	var last *Run
	if n := len(lv.Segments); n > 0 {
		s := &lv.Segments[n-1]
		last = &Run{PV: s.Stripes[0].PV, Start: s.Stripes[0].Start, Count: s.Count}
	}
	policy := g.policyOf(lv)
	a.contiguous(last)
	if policy != AllocContiguous {
		a.cling(last)
	}
	if policy == AllocNormal || policy == AllocAnywhere {
		a.normal()
	}
	return a.got
}

// appendRuns makes segments of the runs, growing the last one where a run
// continues it.
func (lv *LV) appendRuns(runs []Run) {
	start := lv.Extents()
	for _, r := range runs {
		if n := len(lv.Segments); n > 0 && lv.Segments[n-1].continues(r) {
			lv.Segments[n-1].Count += r.Count
		} else {
			lv.Segments = append(lv.Segments, Segment{
				Start: start, Count: r.Count, Type: Striped,
				Stripes: []Area{{PV: r.PV, Start: r.Start}},
			})
		}
		start += r.Count
	}
}

func (s *Segment) continues(r Run) bool {
	return s.Type == Striped && len(s.Stripes) == 1 && len(s.Tags) == 0 && len(s.Extra) == 0 &&
		s.Stripes[0].PV == r.PV && s.Stripes[0].Start+s.Count == r.Start
}

// grow allocates extents for the LV. With approximate, as for a percentage,
// it takes what there is.
func (g *Group) grow(lv *LV, need Extents, ranges []PVRange, approximate bool) error {
	maps, err := g.freeMaps(ranges)
	if err != nil {
		return err
	}
	available := mapsTotal(maps)
	if available < need && !approximate {
		return errs.E(errs.NoSpace, "Insufficient free space: %d extents needed, but only %d available", need, available)
	}
	runs := g.allocate(lv, need, maps)
	found := total(runs)
	switch {
	case found == 0:
		return errs.E(errs.NoSpace, "Insufficient suitable allocatable extents found for logical volume %s.", lv.Name)
	case found < need && !approximate:
		return errs.E(errs.NoSpace, "Insufficient suitable allocatable extents for logical volume %s: %d more required", lv.Name, need-found)
	}
	lv.appendRuns(runs)
	return nil
}
