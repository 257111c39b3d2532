package fields

import (
	"slices"

	"cowl/internal/cli/report"
	"cowl/internal/volume"
)

type (
	field   = report.Field[Row]
	section = report.Section[Row]
)

// Catalog returns all fields, in LVM2's order and sections.
func Catalog() *report.Catalog[Row] {
	return report.NewCatalog(
		&section{Title: "Logical Volume Fields", All: "lv_all", Type: typeLV, Fields: lvFields()},
		&section{Title: "Logical Volume Device Info Fields", All: "lv_all", Type: typeLVState, Fields: lvInfoFields()},
		&section{Title: "Logical Volume Device Status Fields", All: "lv_all", Type: typeLVState, Fields: lvStatusFields()},
		&section{Title: "Logical Volume Device Info and Status Combined Fields", All: "lv_all", Type: typeLVState, Fields: lvAttrFields()},
		&section{Title: "Physical Volume Label Fields", All: "pv_all", Type: typeLabel, Fields: labelFields()},
		&section{Title: "Physical Volume Fields", All: "pv_all", Type: typePV, Fields: pvFields()},
		&section{Title: "Volume Group Fields", All: "vg_all", Type: typeVG, Fields: vgFields()},
		&section{Title: "Logical Volume Segment Fields", All: "seg_all", Type: typeSeg, Fields: segFields()},
		&section{Title: "Physical Volume Segment Fields", All: "pvseg_all", Type: typePVSeg, Fields: pvsegFields()},
		&section{Title: "Fields of cowl's own", All: "cowl_all", Type: typeOwn, Fields: ownFields()},
	)
}

// onLV makes the getter of a field of volumes; none is its value on rows
// without one.
func onLV(none report.Value, get func(Row) report.Value) func(Row) report.Value {
	return func(r Row) report.Value {
		if r.LV == nil {
			return none
		}
		return get(r)
	}
}

// onSizeOfLV is onLV for sizes, of which rows without a volume have 0.
func onSizeOfLV(get func(Row) report.Value) func(Row) report.Value {
	return func(r Row) report.Value {
		if r.LV == nil {
			return r.size(0)
		}
		return get(r)
	}
}

// onVG is onLV for fields of groups.
func onVG(none report.Value, get func(Row) report.Value) func(Row) report.Value {
	return func(r Row) report.Value {
		if r.Group == nil {
			return none
		}
		return get(r)
	}
}

// onSizeOfVG is onSizeOfLV for groups.
func onSizeOfVG(get func(Row) report.Value) func(Row) report.Value {
	return func(r Row) report.Value {
		if r.Group == nil {
			return r.size(0)
		}
		return get(r)
	}
}

// Values of fields that the row does not have.
var (
	blank     = report.Str("")
	undefined = report.Undefined("")
	minusOne  = report.Undefined("-1")
	zero      = report.Int(0)
)

// always makes the getter of a field of something that cowl has not.
func always(v report.Value) func(Row) report.Value { return func(Row) report.Value { return v } }

// never describes fields of things that cowl has not.
const never = "Empty: cowl has no such volumes."

// absent makes a field whose value is always empty.
func absent(name, heading string, width int, kind report.Kind) *field {
	v := undefined
	if kind == report.String || kind == report.List {
		v = blank
	}
	return &field{Name: name, Heading: heading, Width: width, Kind: kind, Help: never, Get: always(v)}
}

// tags are shown sorted, whatever their order in the metadata.
func tags(list []string) report.Value { return report.Strs(slices.Sorted(slices.Values(list))) }

// policies are the allocation policies and how attributes abbreviate them.
var policies = map[string]byte{
	"contiguous": 'c', "cling": 'l', "cling_by_tags": 'l', "normal": 'n', "anywhere": 'a', "inherit": 'i',
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// hasFlag reports whether a list of flags has the word.
func hasFlag(flags []string, word string) bool { return slices.Contains(flags, word) }

// Words of the metadata that only reports look at.
const (
	flagSkip       = "ACTIVATION_SKIP"
	flagNoAuto     = "NOAUTOACTIVATE"
	statusLocked   = "LOCKED"
	statusFixed    = "FIXED_MINOR"
	statusConvert  = "CONVERTING"
	noReadAhead    = -1
	segmentLinear  = "linear"
	segmentStriped = "striped"
)

// typeName returns the name of a segment's type as it is shown.
func typeName(s *volume.Segment) string {
	if s.Type == volume.Striped && len(s.Stripes) == 1 {
		return segmentLinear
	}
	return string(s.Type)
}
