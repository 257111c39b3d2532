package fields

import (
	"cmp"
	"slices"
	"time"

	"cowl/internal/cli/report"
	"cowl/internal/errs"
	"cowl/internal/volume"
)

// Row is one line of a report. What it is about decides which of its parts
// are set: a PV of no group has no Group, free extents have no LV.
type Row struct {
	Group *Group
	PV    *PV
	LV    *volume.LV
	Seg   *volume.Segment
	Run   *Run

	env *Env
}

// Run is a run of extents of a PV that one segment takes, or that is free.
type Run struct {
	Start, Count volume.Extents
	LV           *volume.LV
	Seg          *volume.Segment // nil: free
}

// Env is how values are shown.
type Env struct {
	Sizes volume.SizeFormat
	Zone  *time.Location
	All   bool // internal volumes and plain devices too
}

// The kinds of objects that fields need, as bits.
const (
	typeLV uint = 1 << iota
	typeLVState
	typeLabel
	typePV
	typeVG
	typeSeg
	typePVSeg
	typeOwn
)

const (
	anyLV = typeLV | typeLVState | typeSeg | typeOwn
	anyPV = typePV | typeLabel | typePVSeg
)

// Kind is what a command reports on.
type Kind struct {
	Name    string // of the report in JSON
	Prefix  string // what field names may go without
	Columns string
	Verbose string // columns with -v
	Sort    string
	base    uint
	all     uint // what "all" stands for
}

// The reports that LVM2 has.
var (
	LVs = Kind{
		Name: "lv", Prefix: "lv_", base: typeLV, all: typeLV | typeLVState | typeVG,
		Columns: "lv_name,vg_name,lv_attr,lv_size,pool_lv,origin,data_percent,metadata_percent,move_pv,mirror_log,copy_percent,convert_lv",
		Verbose: "lv_name,vg_name,seg_count,lv_attr,lv_size,lv_major,lv_minor,lv_kernel_major,lv_kernel_minor,pool_lv,origin,data_percent,metadata_percent,move_pv,copy_percent,mirror_log,convert_lv,lv_uuid,lv_profile",
		Sort:    "vg_name,lv_name",
	}
	Segments = Kind{
		Name: "seg", Prefix: "seg_", base: typeSeg, all: typeLV | typeVG | typeSeg,
		Columns: "lv_name,vg_name,lv_attr,stripes,segtype,seg_size",
		Verbose: "lv_name,vg_name,lv_attr,seg_start,seg_size,stripes,segtype,stripe_size,chunk_size",
		Sort:    "vg_name,lv_name,seg_start",
	}
	PVs = Kind{
		Name: "pv", Prefix: "pv_", base: typePV, all: typeLabel | typePV,
		Columns: "pv_name,vg_name,pv_fmt,pv_attr,pv_size,pv_free",
		Verbose: "pv_name,vg_name,pv_fmt,pv_attr,pv_size,pv_free,dev_size,pv_uuid",
		Sort:    "pv_name",
	}
	PVSegments = Kind{
		Name: "pvseg", Prefix: "pvseg_", base: typePVSeg, all: typeLabel | typePVSeg,
		Columns: "pv_name,vg_name,pv_fmt,pv_attr,pv_size,pv_free,pvseg_start,pvseg_size",
		Verbose: "pv_name,vg_name,pv_fmt,pv_attr,pv_size,pv_free,pvseg_start,pvseg_size,lv_name,seg_start_pe,segtype,seg_pe_ranges",
		Sort:    "pv_name,pvseg_start",
	}
	VGs = Kind{
		Name: "vg", Prefix: "vg_", base: typeVG, all: typeVG,
		Columns: "vg_name,pv_count,lv_count,snap_count,vg_attr,vg_size,vg_free",
		Verbose: "vg_name,vg_attr,vg_extent_size,pv_count,lv_count,snap_count,vg_size,vg_free,vg_uuid,vg_profile",
		Sort:    "vg_name",
	}
)

// Query completes a query of the kind: its columns, what names may go without
// and what all stands for. sorted is whether -O was given; without it the
// kind's own order is used.
func (k Kind) Query(q report.Query, sorted, verbose bool) report.Query {
	q.Prefix, q.All, q.Defaults = k.Prefix, k.all, k.Columns
	if verbose {
		q.Defaults = k.Verbose
	}
	if !sorted {
		q.Sort = k.Sort
	}
	return q
}

// Rows returns the rows of a report of the kind that needs fields of the
// given types.
func (k Kind) Rows(d *Data, types uint, env *Env) ([]Row, error) {
	types |= k.base
	withPVs, withLVs := types&anyPV != 0, types&anyLV != 0
	if withPVs && withLVs && k.base&anyPV == 0 {
		return nil, errs.E(errs.Other, "Can't report LV and PV fields at the same time in report type \"%s\".", k.Name)
	}
	rows := rowMaker{env: env}
	switch {
	case withPVs && (withLVs || types&typePVSeg != 0):
		rows.each(d, k, rows.runs)
	case withPVs:
		rows.each(d, k, func(pv *PV) { rows.add(Row{Group: pv.Group, PV: pv}) })
	case types&typeSeg != 0:
		rows.lvs(d, func(r Row) {
			for i := range r.LV.Segments {
				r.Seg = &r.LV.Segments[i]
				rows.add(r)
			}
		})
	case withLVs:
		rows.lvs(d, rows.add)
	default:
		for _, g := range d.Groups {
			rows.add(Row{Group: g})
		}
	}
	return rows.out, nil
}

// rowMaker collects rows.
type rowMaker struct {
	env *Env
	out []Row
}

func (m *rowMaker) add(r Row) {
	r.env = m.env
	m.out = append(m.out, r)
}

// each calls f for every PV that a report of the kind is about.
func (m *rowMaker) each(d *Data, k Kind, f func(*PV)) {
	for _, g := range d.Groups {
		for _, pv := range g.PVs {
			f(pv)
		}
	}
	if k.base == typeVG {
		return
	}
	for _, pv := range d.Orphans {
		f(pv)
	}
	if m.env.All {
		for _, pv := range d.Devices {
			f(pv)
		}
	}
}

// lvs calls f with a row for every volume that is shown.
func (m *rowMaker) lvs(d *Data, f func(Row)) {
	for _, g := range d.Groups {
		for _, lv := range g.Volumes(m.env.All) {
			f(Row{Group: g, LV: lv})
		}
	}
}

// Volumes returns the volumes that are shown: those that were asked for by
// name, or the visible ones, or all but the holders of snapshots.
func (g *Group) Volumes(all bool) []*volume.LV {
	var out []*volume.LV
	for _, lv := range g.Meta.LVs {
		show := g.visible[lv] || all
		if g.Only != nil {
			show = g.Only[lv.Name]
		}
		if show && !isInternal(lv) {
			out = append(out, lv)
		}
	}
	return out
}

func (m *rowMaker) runs(pv *PV) {
	for _, run := range pv.Runs() {
		m.add(Row{Group: pv.Group, PV: pv, LV: run.LV, Seg: run.Seg, Run: &run})
	}
}

// Runs returns the extents of a PV in order: what segments take, and what is
// free. A PV of no group has one empty run.
func (pv *PV) Runs() []Run {
	if pv.Meta == nil {
		return []Run{{}}
	}
	var runs []Run
	for _, lv := range pv.Group.Meta.LVs {
		for i := range lv.Segments {
			s := &lv.Segments[i]
			for _, a := range s.Stripes {
				if a.PV == pv.Meta.Key {
					runs = append(runs, Run{Start: a.Start, Count: s.AreaLen(), LV: lv, Seg: s})
				}
			}
		}
	}
	for _, free := range pv.Group.Meta.FreeRuns(pv.Meta) {
		runs = append(runs, Run{Start: free.Start, Count: free.Count})
	}
	slices.SortFunc(runs, func(a, b Run) int { return cmp.Compare(a.Start, b.Start) })
	return runs
}

// size shows a size in bytes in the units that were asked for.
func (r Row) size(bytes int64) report.Value {
	return report.Num(float64(bytes), r.env.Sizes.Format(bytes))
}

// extents shows a number of the group's extents as a size.
func (r Row) extents(n volume.Extents) report.Value { return r.size(r.Group.Meta.ExtentBytes(n)) }
