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

// area is a free run of one PV. While a choice is made, unreserved is what
// would be left of it if it were chosen; otherwise it is Count.
type area struct {
	Run
	unreserved Extents
}

// pvMap holds the free areas of one PV, sorted by unreserved, most first.
type pvMap []*area

// allocator finds space for one linear volume the way LVM2 does, so that both
// leave the same layout behind: policies are tried from the strictest to the
// one that applies, and what a stricter one found is kept.
type allocator struct {
	maps []pvMap // in the group's order, or in that of the command line
	need Extents
	got  []Run
}

// freeMaps returns what may be allocated: of the PVs that the ranges name, in
// that order, or of all. Named PVs that cannot be used are remarked on.
func (g *Group) freeMaps(ranges []PVRange, c *Change) ([]pvMap, error) {
	if ranges != nil {
		return g.namedMaps(ranges, c)
	}
	var maps []pvMap
	for _, pv := range g.PVs {
		if pv.Allocatable() {
			maps = append(maps, newPVMap(g.FreeRuns(pv)))
		}
	}
	return maps, nil
}

func (g *Group) namedMaps(ranges []PVRange, c *Change) ([]pvMap, error) {
	byKey := map[string][]PVRange{}
	var order []string
	for _, r := range ranges {
		if _, seen := byKey[r.PV]; !seen {
			order = append(order, r.PV)
		}
		byKey[r.PV] = append(byKey[r.PV], r)
	}
	var maps []pvMap
	for _, key := range order {
		pv := g.PV(key)
		switch {
		case pv == nil:
			return nil, errs.E(errs.NotFound, "Physical Volume %q not found in Volume Group %q.", key, g.Name)
		case pv.Has(StatusMissing):
			c.note("WARNING: Physical volume %q is missing.", pv.Device)
			continue
		case !pv.Allocatable():
			c.note("WARNING: Physical volume %q not allocatable.", pv.Device)
			continue
		case g.PVFree(pv) == 0:
			c.note("WARNING: No free extents on physical volume %q.", pv.Device)
			continue
		}
		runs, err := clipRuns(g.FreeRuns(pv), pv, byKey[key])
		if err != nil {
			return nil, err
		}
		maps = append(maps, newPVMap(runs))
	}
	if maps == nil {
		return nil, errs.E(errs.NoSpace, "No specified PVs have space available.")
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
			return nil, errs.E(errs.Usage, "Overlapping PE ranges specified (%d-%d, %d-%d) on %s.", p.Start, p.End, r.Start, r.End, pv.Device)
		}
		if r.Start >= pv.PECount || r.End >= pv.PECount && r.End != endOfPV {
			return nil, errs.E(errs.NotFound, "PE range error: start extent %d to end extent %d.", r.Start, r.End)
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
	var m pvMap
	for _, r := range runs {
		m.insert(&area{r, r.Count})
	}
	return m
}

// insert puts an area behind those of the same size.
func (m *pvMap) insert(x *area) {
	at := slices.IndexFunc(*m, func(a *area) bool { return a.unreserved < x.unreserved })
	if at < 0 {
		at = len(*m)
	}
	*m = slices.Insert(*m, at, x)
}

func (m *pvMap) remove(x *area) {
	at := slices.Index(*m, x)
	*m = slices.Delete(*m, at, at+1)
}

func mapsTotal(maps []pvMap) Extents {
	var n Extents
	for _, m := range maps {
		for _, x := range m {
			n += x.Count
		}
	}
	return n
}

// take allocates from the beginning of an area of map m, as much as is needed
// or there.
func (a *allocator) take(m int, x *area) {
	n := min(a.need, x.Count)
	a.got = append(a.got, Run{PV: x.PV, Start: x.Start, Count: n})
	a.need -= n
	a.maps[m].remove(x)
	if n < x.Count {
		x.Start += n
		x.Count -= n
		x.unreserved = x.Count
		a.maps[m].insert(x)
	}
}

// choose returns the area of a PV that LVM2 takes n extents of: the largest,
// or where a smaller one is large enough and not as large as what would be
// left of it, that one, and so on. With small, it goes on to those that are
// not large enough. It marks as reserved what it considers.
func (m *pvMap) choose(n Extents, small bool) *area {
	var chosen *area
	for i := 0; i < len(*m); i++ {
		x := (*m)[i]
		if x.unreserved == 0 {
			continue
		}
		if chosen != nil && x.unreserved < n && !small {
			break
		}
		chosen = x
		if n >= x.unreserved {
			x.unreserved = 0
			continue
		}
		m.remove(x)
		x.unreserved -= n
		m.insert(x)
		i = slices.Index(*m, x)
	}
	return chosen
}

// release takes back the marks of choose.
func (m *pvMap) release() {
	for _, x := range slices.Clone(*m) {
		if x.unreserved != x.Count {
			m.remove(x)
			x.unreserved = x.Count
			m.insert(x)
		}
	}
}

// most takes an area of the PV where it is of the most use, of those that may
// be used.
func (a *allocator) most(may func(key string) bool, small bool) bool {
	best, from := (*area)(nil), 0
	for m := range a.maps {
		if len(a.maps[m]) == 0 || !may(a.maps[m][0].PV) {
			continue
		}
		x := a.maps[m].choose(a.need, small)
		if x != nil && (best == nil || min(a.need, x.Count) > min(a.need, best.Count)) {
			best, from = x, m
		}
	}
	if best != nil {
		a.take(from, best)
	}
	for m := range a.maps {
		a.maps[m].release()
	}
	return best != nil
}

// adjacent takes the area right behind the last one.
func (a *allocator) adjacent(last Run) {
	for m := range a.maps {
		for _, x := range a.maps[m] {
			if x.PV == last.PV && x.Start == last.End() {
				a.take(m, x)
				return
			}
		}
	}
}

// contiguous takes an area of the first PV that has one for all.
func (a *allocator) contiguous() {
	for m, areas := range a.maps {
		if len(areas) > 0 && areas[0].Count >= a.need {
			a.take(m, a.maps[m].choose(a.need, false))
			return
		}
	}
}

// cling takes the largest area of the first PV of those given.
func (a *allocator) cling(pvs func(key string) bool) bool {
	for m, areas := range a.maps {
		if len(areas) > 0 && pvs(areas[0].PV) {
			a.take(m, areas[0])
			return true
		}
	}
	return false
}

func anyPV(string) bool { return true }

// gotOf reports whether something of the PV was taken already.
func (a *allocator) gotOf(key string) bool {
	return slices.ContainsFunc(a.got, func(r Run) bool { return r.PV == key })
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
func allocate(lv *LV, need Extents, maps []pvMap, policy string) []Run {
	a := &allocator{maps: maps, need: need}
	clingTo := a.gotOf
	switch n := len(lv.Segments); {
	case n > 0:
		last := &lv.Segments[n-1]
		a.adjacent(Run{PV: last.Stripes[0].PV, Start: last.Stripes[0].Start, Count: last.Count})
		// LVM2 means to cling to any PV of the volume, and looks at its first
		// segment only.
		clingTo = func(key string) bool { return key == lv.Segments[0].Stripes[0].PV }
	case policy == AllocContiguous:
		a.contiguous()
	default:
		a.most(anyPV, false)
	}
	if policy == AllocContiguous {
		return a.got
	}
	for a.need > 0 && a.cling(clingTo) {
		continue
	}
	if policy == AllocNormal || policy == AllocAnywhere {
		for a.need > 0 && (a.most(a.gotOf, true) || a.most(anyPV, false)) {
			continue
		}
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
func (g *Group) grow(lv *LV, need Extents, maps []pvMap, approximate bool) error {
	available := mapsTotal(maps)
	if available < need && !approximate {
		return errs.E(errs.NoSpace, "Insufficient free space: %d extents needed, but only %d available", need, available)
	}
	policy := g.policyOf(lv)
	runs := allocate(lv, need, maps, policy)
	word := ""
	if policy == AllocContiguous {
		word = "contiguous "
	}
	switch found := total(runs); {
	case found < need && !approximate:
		return errs.E(errs.NoSpace, "Insufficient suitable %sallocatable extents for logical volume %s: %d more required", word, lv.Name, need-found)
	case found == 0:
		return errs.E(errs.NoSpace, "Insufficient suitable %sallocatable extents found for logical volume %s.", word, lv.Name)
	}
	lv.appendRuns(runs)
	return nil
}
