package volume

import (
	"cmp"
	"slices"

	"cowl/internal/format/config"
)

// Run is a run of extents of one PV.
type Run struct {
	PV           string // metadata key
	Start, Count Extents
}

// End returns the first extent after the run.
func (r Run) End() Extents { return r.Start + r.Count }

// AreaLen returns how many extents each of the segment's stripes takes on its PV.
func (s *Segment) AreaLen() Extents {
	if s.Type != Striped || len(s.Stripes) < 2 {
		return s.Count
	}
	return s.Count / Extents(len(s.Stripes))
}

// usedRuns returns the runs of a PV that segments take, in no order. What
// segments of unknown types take is found too: in their arrays of PVs and
// extents.
func (g *Group) usedRuns(key string) []Run {
	var runs []Run
	for _, lv := range g.LVs {
		for i := range lv.Segments {
			s := &lv.Segments[i]
			areas := s.Stripes
			if s.Type != Striped {
				areas = append(slices.Clone(areas), foreignAreas(s.Extra)...)
			}
			for _, a := range areas {
				if a.PV == key {
					runs = append(runs, Run{PV: key, Start: a.Start, Count: s.AreaLen()})
				}
			}
		}
	}
	return runs
}

// foreignAreas finds ["pv0", 12, ...] pairs in what cowl does not know, so that
// the extents of mirrors and the like count as used.
func foreignAreas(nodes []config.Node) []Area {
	var areas []Area
	for _, n := range nodes {
		areas = append(areas, foreignAreas(n.Children)...)
		v := n.Value.Array
		for i := 0; i+1 < len(v); i++ {
			if v[i].Kind == config.String && v[i+1].Kind == config.Int && v[i+1].Int >= 0 {
				areas = append(areas, Area{PV: v[i].Text, Start: Extents(v[i+1].Int)})
			}
		}
	}
	return areas
}

// UsedRuns returns the allocated runs of a PV, sorted, adjacent and
// overlapping ones merged.
func (g *Group) UsedRuns(pv *PV) []Run {
	runs := g.usedRuns(pv.Key)
	slices.SortFunc(runs, func(a, b Run) int { return cmp.Compare(a.Start, b.Start) })
	merged := runs[:0]
	for _, r := range runs {
		if n := len(merged); n > 0 && r.Start <= merged[n-1].End() {
			last := &merged[n-1]
			last.Count = max(last.End(), r.End()) - last.Start
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

// FreeRuns returns the runs of a PV that nothing takes, in order, whether or
// not the PV may be allocated from.
func (g *Group) FreeRuns(pv *PV) []Run {
	var free []Run
	var next Extents
	for _, used := range g.UsedRuns(pv) {
		if used.Start > next && next < pv.PECount {
			free = append(free, Run{PV: pv.Key, Start: next, Count: min(used.Start, pv.PECount) - next})
		}
		next = max(next, used.End())
	}
	if next < pv.PECount {
		free = append(free, Run{PV: pv.Key, Start: next, Count: pv.PECount - next})
	}
	return free
}

// PVFree returns the number of free extents of a PV.
func (g *Group) PVFree(pv *PV) Extents { return total(g.FreeRuns(pv)) }

// PVUsed returns the number of allocated extents of a PV.
func (g *Group) PVUsed(pv *PV) Extents { return pv.PECount - g.PVFree(pv) }

// Size returns the number of extents of the group.
func (g *Group) Size() Extents {
	var n Extents
	for _, pv := range g.PVs {
		n += pv.PECount
	}
	return n
}

// Free returns the number of free extents of the group, as vg_free_count.
func (g *Group) Free() Extents {
	var n Extents
	for _, pv := range g.PVs {
		n += g.PVFree(pv)
	}
	return n
}

// Allocatable reports whether new extents may be taken of the PV.
func (pv *PV) Allocatable() bool { return pv.Has(StatusAllocatable) && !pv.Has(StatusMissing) }

func total(runs []Run) Extents {
	var n Extents
	for _, r := range runs {
		n += r.Count
	}
	return n
}

// ExtentsFor returns the smallest number of extents that hold the bytes.
func (g *Group) ExtentsFor(bytes int64) Extents {
	unit := g.ExtentSize.Bytes()
	n := bytes / unit
	if bytes%unit != 0 {
		n++
	}
	return Extents(n)
}

// ExtentBytes returns what a number of extents is in bytes.
func (g *Group) ExtentBytes(n Extents) int64 { return (Sectors(n) * g.ExtentSize).Bytes() }
