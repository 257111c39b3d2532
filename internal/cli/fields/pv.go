package fields

import (
	"strconv"

	"cowl/internal/cli/report"
	"cowl/internal/volume"
)

// labelFields are the fields of a device and its label.
func labelFields() []*field {
	label := func(get func(*PV) string) func(Row) report.Value {
		return func(r Row) report.Value { return report.Str(textIf(r.PV.Labelled, get(r.PV))) }
	}
	return []*field{
		{Name: "pv_fmt", Heading: "Fmt", Width: 3, Help: "Type of the metadata.", Get: label(func(*PV) string { return "lvm2" })},
		{Name: "pv_uuid", Heading: "PV UUID", Width: 38, Help: "Unique identifier.", Get: label(func(pv *PV) string { return pv.ID.String() })},
		{Name: "dev_size", Heading: "DevSize", Kind: report.Size, Help: "Size of the device.", Get: func(r Row) report.Value { return r.size(r.PV.DevSize) }},
		{Name: "pv_name", Heading: "PV", Width: 10, Help: "Path.", Get: func(r Row) report.Value { return report.Str(r.PV.Path) }},
		{Name: "pv_major", Heading: "Maj", Help: "Major number of the device, 0 for a file.", Get: func(r Row) report.Value { return report.Str(strconv.Itoa(int(r.PV.Major))) }},
		{Name: "pv_minor", Heading: "Min", Help: "Minor number of the device, 0 for a file.", Get: func(r Row) report.Value { return report.Str(strconv.Itoa(int(r.PV.Minor))) }},
		{Name: "pv_mda_free", Heading: "PMdaFree", Width: 9, Kind: report.Size, Help: "Room that is left in the fullest metadata area.", Get: func(r Row) report.Value { return r.size(least(r.PV.MDAs, free)) }},
		{Name: "pv_mda_size", Heading: "PMdaSize", Width: 9, Kind: report.Size, Help: "Size of the smallest metadata area.", Get: func(r Row) report.Value { return r.size(least(r.PV.MDAs, size)) }},
		{Name: "pv_ext_vsn", Heading: "PExtVsn", Kind: report.Number, Help: "Version of the label's extension.", Get: func(r Row) report.Value {
			if !r.PV.Labelled || r.PV.Missing {
				return undefined
			}
			return report.Int(uint64(r.PV.ExtVersion))
		}},
	}
}

// pvFields are the fields of physical volumes.
func pvFields() []*field {
	flag := func(name, heading string, width int, word, help string, set func(*PV) bool) *field {
		return &field{Name: name, Heading: heading, Width: width, Kind: report.Number, Flag: word, Help: help,
			Get: func(r Row) report.Value { return report.Flag(set(r.PV)) }}
	}
	count := func(name, heading string, width int, help string, get func(*PV) int) *field {
		return &field{Name: name, Heading: heading, Width: width, Kind: report.Number, Help: help,
			Get: func(r Row) report.Value { return report.Int(get(r.PV)) }}
	}
	bytes := func(name, heading string, help string, get func(*PV) int64) *field {
		return &field{Name: name, Heading: heading, Kind: report.Size, Help: help,
			Get: func(r Row) report.Value { return r.size(get(r.PV)) }}
	}
	start := bytes("pe_start", "1st PE", "Where the first extent begins.", func(pv *PV) int64 { return pv.PEStart.Bytes() })
	start.Width, start.Kind = 7, report.Number
	return []*field{
		start,
		bytes("pv_size", "PSize", "Size of its extents, or of the device.", (*PV).Size),
		bytes("pv_free", "PFree", "Size of the free extents.", (*PV).Free),
		bytes("pv_used", "Used", "Size of the allocated extents.", func(pv *PV) int64 { return pv.extents(pv.usedExtents()) }),
		{Name: "pv_attr", Heading: "Attr", Width: 3, Help: "Attributes: a allocatable or u used, x exported, m missing.", Get: func(r Row) report.Value { return report.Str(r.PV.attr()) }},
		flag("pv_allocatable", "Allocatable", 0, "allocatable", "Set if extents may be taken from it.", (*PV).Allocatable),
		flag("pv_exported", "Exported", 10, "exported", "Set if its group is exported.", (*PV).exported),
		flag("pv_missing", "Missing", 10, "missing", "Set if its device was not found.", func(pv *PV) bool { return pv.Missing }),
		count("pv_pe_count", "PE", 3, "Number of extents.", func(pv *PV) int { return int(pv.peCount()) }),
		count("pv_pe_alloc_count", "Alloc", 0, "Number of allocated extents.", func(pv *PV) int { return int(pv.usedExtents()) }),
		{Name: "pv_tags", Heading: "PV Tags", Kind: report.List, Help: "Tags.", Get: func(r Row) report.Value {
			if r.PV.Meta == nil {
				return blank
			}
			return tags(r.PV.Meta.Tags)
		}},
		count("pv_mda_count", "#PMda", 0, "Number of metadata areas.", func(pv *PV) int { all, _ := pv.countMDAs(); return all }),
		count("pv_mda_used_count", "#PMdaUse", 0, "Number of metadata areas in use.", func(pv *PV) int { _, used := pv.countMDAs(); return used }),
		bytes("pv_ba_start", "BA Start", "Where the bootloader area begins.", func(pv *PV) int64 { return pv.BAStart.Bytes() }),
		bytes("pv_ba_size", "BA Size", "Size of the bootloader area.", func(pv *PV) int64 { return pv.BASize.Bytes() }),
		flag("pv_in_use", "PInUse", 0, "used", "Set if a group uses it.", func(pv *PV) bool { return pv.Meta != nil || pv.InUse }),
		flag("pv_duplicate", "Duplicate", 0, "duplicate", "Never set: duplicates are refused.", func(*PV) bool { return false }),
		{Name: "pv_device_id", Heading: "DeviceID", Help: "How LVM2's devices file finds it.", Get: onMeta(func(pv *volume.PV) string { return pv.DeviceID })},
		{Name: "pv_device_id_type", Heading: "DeviceIDType", Help: "What kind of identifier that is.", Get: onMeta(func(pv *volume.PV) string { return pv.DeviceIDType })},
	}
}

func onMeta(get func(*volume.PV) string) func(Row) report.Value {
	return func(r Row) report.Value {
		if r.PV.Meta == nil {
			return blank
		}
		return report.Str(get(r.PV.Meta))
	}
}

// Allocatable reports whether new extents may be taken from the PV.
func (pv *PV) Allocatable() bool { return pv.Meta != nil && pv.Meta.Has(volume.StatusAllocatable) }

func (pv *PV) exported() bool { return pv.Group != nil && pv.Group.Meta.Has(volume.StatusExported) }

func (pv *PV) attr() string {
	attr := []byte("---")
	switch {
	case pv.Allocatable():
		attr[0] = 'a'
	case pv.Meta != nil || pv.InUse:
		attr[0] = 'u'
	}
	if pv.exported() {
		attr[1] = 'x'
	}
	if pv.Missing {
		attr[2] = 'm'
	}
	return string(attr)
}

// peCount returns the number of extents, 0 if the PV is in no group.
func (pv *PV) peCount() volume.Extents {
	if pv.Meta == nil {
		return 0
	}
	return pv.Meta.PECount
}

func (pv *PV) usedExtents() volume.Extents {
	if pv.Meta == nil {
		return 0
	}
	return pv.Group.Meta.PVUsed(pv.Meta)
}

func (pv *PV) extents(n volume.Extents) int64 {
	if pv.Group == nil {
		return 0
	}
	return pv.Group.Meta.ExtentBytes(n)
}

// Size returns the bytes of the PV's extents; of its device if it is in no
// group.
func (pv *PV) Size() int64 {
	if pv.Meta == nil {
		return pv.LabelSize
	}
	return pv.extents(pv.Meta.PECount)
}

// Free returns the bytes of the PV's free extents. All of a PV that is in no
// group is free, unless a group that was not found uses it.
func (pv *PV) Free() int64 {
	switch {
	case pv.Meta != nil:
		return pv.extents(pv.Meta.PECount - pv.usedExtents())
	case pv.InUse:
		return 0
	}
	return pv.LabelSize
}

// pvsegFields are the fields of runs of physical extents.
func pvsegFields() []*field {
	extents := func(name, heading, help string, get func(*Run) volume.Extents) *field {
		return &field{Name: name, Heading: heading, Kind: report.Number, Help: help,
			Get: func(r Row) report.Value { return report.Int(get(r.Run)) }}
	}
	return []*field{
		extents("pvseg_start", "Start", "First physical extent.", func(run *Run) volume.Extents { return run.Start }),
		extents("pvseg_size", "SSize", "Number of physical extents.", func(run *Run) volume.Extents { return run.Count }),
	}
}
