package fields

import (
	"cowl/internal/cli/report"
	"cowl/internal/volume"
)

// vgFields are the fields of volume groups.
func vgFields() []*field {
	text := func(name, heading string, width int, help string, get func(*Group) string) *field {
		return &field{Name: name, Heading: heading, Width: width, Help: help,
			Get: onVG(blank, func(r Row) report.Value { return report.Str(get(r.Group)) })}
	}
	flag := func(name, heading string, width int, word, help string, set func(*Group) bool) *field {
		return &field{Name: name, Heading: heading, Width: width, Kind: report.Number, Flag: word, Help: help,
			Get: onVG(report.Flag(false), func(r Row) report.Value { return report.Flag(set(r.Group)) })}
	}
	count := func(name, heading, help string, get func(*Group) int) *field {
		return &field{Name: name, Heading: heading, Kind: report.Number, Help: help,
			Get: onVG(zero, func(r Row) report.Value { return report.Int(get(r.Group)) })}
	}
	bytes := func(name, heading string, width int, help string, get func(*Group) int64) *field {
		return &field{Name: name, Heading: heading, Width: width, Kind: report.Size, Help: help,
			Get: onSizeOfVG(func(r Row) report.Value { return r.size(get(r.Group)) })}
	}
	return []*field{
		text("vg_fmt", "Fmt", 0, "Type of the metadata.", func(g *Group) string { return orElse(g.Meta.Format, "lvm2") }),
		text("vg_uuid", "VG UUID", 38, "Unique identifier.", func(g *Group) string { return g.Meta.ID.String() }),
		{Name: "vg_name", Heading: "VG", Help: "Name.", Get: vgName},
		text("vg_attr", "Attr", 5, "Attributes, one character each; see cowl help vgs.", (*Group).attr),
		{Name: "vg_permissions", Heading: "VPerms", Width: 10, Aliases: permissions, Help: "Permissions.",
			Get: onVG(blank, func(r Row) report.Value { return report.Str(r.Group.permissions()) })},
		flag("vg_extendable", "Extendable", 0, "extendable", "Set if PVs may be added.", (*Group).Resizeable),
		flag("vg_exported", "Exported", 10, "exported", "Set if it is exported.", (*Group).Exported),
		flag("vg_autoactivation", "AutoAct", 0, "enabled", "Set if it may be activated by itself.", func(g *Group) bool { return !hasFlag(g.Meta.Flags, flagNoAuto) }),
		flag("vg_partial", "Partial", 10, "partial", "Set if a PV is missing.", (*Group).Partial),
		text("vg_allocation_policy", "AllocPol", 10, "Allocation policy.", func(g *Group) string { return orElse(g.Meta.Allocation, "normal") }),
		flag("vg_clustered", "Clustered", 10, "clustered", "Set if it is clustered.", func(g *Group) bool { return g.Meta.Has("CLUSTERED") }),
		flag("vg_shared", "Shared", 7, "shared", "Set if hosts share it by locks.", (*Group).shared),
		bytes("vg_size", "VSize", 0, "Size of its extents.", func(g *Group) int64 { return g.Meta.ExtentBytes(g.Meta.Size()) }),
		bytes("vg_free", "VFree", 0, "Size of the free extents.", func(g *Group) int64 { return g.Meta.ExtentBytes(g.Meta.Free()) }),
		text("vg_sysid", "SYS ID", 0, "Host that owns it.", func(g *Group) string { return g.Meta.SystemID }),
		text("vg_systemid", "System ID", 0, "The same.", func(g *Group) string { return g.Meta.SystemID }),
		text("vg_lock_type", "LockType", 0, "How hosts lock it.", func(g *Group) string { return g.Meta.LockType }),
		absent("vg_lock_args", "VLockArgs", 0, report.String),
		bytes("vg_extent_size", "Ext", 0, "Size of an extent.", func(g *Group) int64 { return g.Meta.ExtentSize.Bytes() }),
		count("vg_extent_count", "#Ext", "Number of extents.", func(g *Group) int { return int(g.Meta.Size()) }),
		count("vg_free_count", "Free", "Number of free extents.", func(g *Group) int { return int(g.Meta.Free()) }),
		count("max_lv", "MaxLV", "Most volumes that it may have, 0 for no limit.", func(g *Group) int { return int(g.Meta.MaxLV) }),
		count("max_pv", "MaxPV", "Most PVs that it may have, 0 for no limit.", func(g *Group) int { return int(g.Meta.MaxPV) }),
		count("pv_count", "#PV", "Number of PVs.", func(g *Group) int { return len(g.Meta.PVs) }),
		count("vg_missing_pv_count", "#PV Missing", "Number of PVs that are missing.", (*Group).MissingPVs),
		count("lv_count", "#LV", "Number of volumes.", func(g *Group) int { return len(g.visible) }),
		count("snap_count", "#SN", "Number of snapshots.", func(g *Group) int { return len(g.stores) }),
		count("vg_seqno", "Seq", "Number of the last change of the metadata.", func(g *Group) int { return int(g.Meta.Seqno) }),
		{Name: "vg_tags", Heading: "VG Tags", Kind: report.List, Help: "Tags.", Get: onVG(blank, func(r Row) report.Value { return tags(r.Group.Meta.Tags) })},
		text("vg_profile", "VProfile", 0, "Configuration profile of LVM2.", func(g *Group) string { return g.Meta.Profile }),
		count("vg_mda_count", "#VMda", "Number of metadata areas.", func(g *Group) int { all, _ := g.MDAs(); return all }),
		count("vg_mda_used_count", "#VMdaUse", "Number of metadata areas in use.", func(g *Group) int { _, used := g.MDAs(); return used }),
		bytes("vg_mda_free", "VMdaFree", 9, "Room that is left in the fullest metadata area.", func(g *Group) int64 { return least(g.usedMDAs(), free) }),
		bytes("vg_mda_size", "VMdaSize", 9, "Size of the smallest metadata area.", func(g *Group) int64 { return least(g.usedMDAs(), size) }),
		{Name: "vg_mda_copies", Heading: "#VMdaCps", Kind: report.Number, Undefined: []string{"unmanaged"}, Help: "Metadata areas that are to be used, or unmanaged.",
			Get: onVG(undefined, func(r Row) report.Value {
				if r.Group.Meta.MetadataCopies == 0 {
					return report.Undefined("unmanaged")
				}
				return report.Int(r.Group.Meta.MetadataCopies)
			})},
	}
}

// vgName is the group's name; a PV whose label says that it is in use by a
// group that was not found has an unknown one.
func vgName(r Row) report.Value {
	switch {
	case r.Group != nil:
		return report.Str(r.Group.Meta.Name)
	case r.PV != nil && r.PV.InUse && r.Run == nil:
		return report.Str(UnknownDevice)
	}
	return blank
}

// Writeable reports whether the group's metadata may be changed.
func (g *Group) Writeable() bool { return g.Meta.Has(volume.StatusWrite) }

// Resizeable reports whether PVs may be added.
func (g *Group) Resizeable() bool { return g.Meta.Has(volume.StatusResizeable) }

// Exported reports whether the group is exported.
func (g *Group) Exported() bool { return g.Meta.Has(volume.StatusExported) }

func (g *Group) shared() bool { return g.Meta.LockType != "" && g.Meta.LockType != "none" }

func (g *Group) permissions() string {
	if g.Writeable() {
		return "writeable"
	}
	return "read-only"
}

// attr returns the six characters of vg_attr.
func (g *Group) attr() string {
	attr := []byte("r-----")
	set := func(i int, condition bool, c byte) {
		if condition {
			attr[i] = c
		}
	}
	set(0, g.Writeable(), 'w')
	set(1, g.Resizeable(), 'z')
	set(2, g.Exported(), 'x')
	set(3, g.Partial(), 'p')
	attr[4] = policies[orElse(g.Meta.Allocation, "normal")]
	set(5, g.Meta.Has("CLUSTERED"), 'c')
	set(5, g.shared(), 's')
	return string(attr)
}
