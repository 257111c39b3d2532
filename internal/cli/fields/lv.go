package fields

import (
	"strconv"
	"time"

	"cowl/internal/cli/report"
	"cowl/internal/volume"
)

// lvFields are the fields that the metadata alone decides.
func lvFields() []*field {
	return []*field{
		{Name: "lv_uuid", Heading: "LV UUID", Width: 38, Help: "Unique identifier.", Get: onLV(blank, lvUUID)},
		{Name: "lv_name", Heading: "LV", Width: 4, Help: "Name, in brackets if the volume is internal.", Get: onLV(blank, lvName)},
		{Name: "lv_full_name", Heading: "LV", Help: "Group and name: VG/LV.", Get: onLV(blank, func(r Row) report.Value {
			return report.Str(r.Group.Meta.Name + "/" + r.LV.Name)
		})},
		{Name: "lv_path", Heading: "Path", Help: "Path under /dev; empty for internal volumes.", Get: onLV(blank, lvPath)},
		{Name: "lv_dm_path", Heading: "DMPath", Help: "Path under /dev/mapper.", Get: onLV(blank, func(r Row) report.Value {
			return report.Str("/dev/mapper/" + volume.DMName(r.Group.Meta.Name, r.LV.Name))
		})},
		absent("lv_parent", "Parent", 0, report.String),
		{Name: "lv_layout", Heading: "Layout", Width: 10, Kind: report.List, Help: "How its extents are laid out.", Get: onLV(blank, lvLayout)},
		{Name: "lv_role", Heading: "Role", Width: 10, Kind: report.List, Help: "What it is to other volumes.", Get: onLV(blank, lvRole)},
		flag("lv_initial_image_sync", "InitImgSyn", 0, "initial image sync", never, neverSet),
		flag("lv_image_synced", "ImgSynced", 10, "image synced", never, neverSet),
		flag("lv_merging", "Merging", 10, "merging", "Set on a snapshot that is being merged, and on its origin.", Row.isMerging),
		flag("lv_converting", "Converting", 0, "converting", "Set while it is being converted.", func(r Row) bool { return r.LV.Has(statusConvert) }),
		{Name: "lv_allocation_policy", Heading: "AllocPol", Width: 10, Help: "Allocation policy.", Get: onLV(blank, func(r Row) report.Value {
			return report.Str(orElse(r.LV.Allocation, "inherit"))
		})},
		flag("lv_allocation_locked", "AllocLock", 10, "allocation locked", "Set if its extents may not be moved or changed.", func(r Row) bool { return r.LV.Has(statusLocked) }),
		flag("lv_fixed_minor", "FixMin", 10, "fixed minor", "Set if it has a minor number of its own.", func(r Row) bool { return r.LV.Has(statusFixed) }),
		flag("lv_skip_activation", "SkipAct", 15, "skip activation", "Set if activating its group leaves it out.", func(r Row) bool { return hasFlag(r.LV.Flags, flagSkip) }),
		flag("lv_autoactivation", "AutoAct", 0, "enabled", "Set if it may be activated by itself.", func(r Row) bool { return !hasFlag(r.LV.Flags, flagNoAuto) }),
		absent("lv_when_full", "WhenFull", 15, report.String),
		{Name: "lv_active", Heading: "Active", Help: "Whether it is active.", Get: onLV(blank, func(r Row) report.Value {
			return report.Str(textIf(r.isActive(), "active"))
		})},
		flag("lv_active_locally", "ActLocal", 10, "active locally", "Set if it is active on this host.", Row.isActive),
		flag("lv_active_remotely", "ActRemote", 10, "active remotely", "Never set: groups are not shared.", neverSet),
		flag("lv_active_exclusively", "ActExcl", 10, "active exclusively", "Set if it is active and nowhere else.", Row.isActive),
		{Name: "lv_major", Heading: "Maj", Kind: report.Number, Help: "Fixed major number, -1 if none.", Get: onLV(minusOne, func(r Row) report.Value { return fixedNumber(r.LV.Major) })},
		{Name: "lv_minor", Heading: "Min", Kind: report.Number, Help: "Fixed minor number, -1 if none.", Get: onLV(minusOne, func(r Row) report.Value { return fixedNumber(r.LV.Minor) })},
		{Name: "lv_read_ahead", Heading: "Rahead", Kind: report.Size, Undefined: []string{"auto"}, Help: "Read ahead setting.", Get: onSizeOfLV(lvReadAhead)},
		{Name: "lv_size", Heading: "LSize", Kind: report.Size, Help: "Size; a snapshot's is its COW store's.", Get: onSizeOfLV(func(r Row) report.Value { return r.extents(r.LV.Extents()) })},
		absent("lv_metadata_size", "MSize", 0, report.Size),
		{Name: "seg_count", Heading: "#Seg", Kind: report.Number, Help: "Number of segments.", Get: onLV(zero, func(r Row) report.Value { return report.Int(len(r.LV.Segments)) })},
		{Name: "origin", Heading: "Origin", Help: "Of a snapshot, its origin.", Get: onLV(blank, func(r Row) report.Value { return r.ofOrigin(func(o *volume.LV) string { return o.Name }) })},
		{Name: "origin_uuid", Heading: "Origin UUID", Width: 38, Help: "Of a snapshot, its origin's identifier.", Get: onLV(blank, func(r Row) report.Value { return r.ofOrigin(func(o *volume.LV) string { return o.ID.String() }) })},
		{Name: "origin_size", Heading: "OSize", Kind: report.Size, Help: "Of a snapshot or an origin, the origin's size.", Get: onLV(undefined, originSize)},
		{Name: "lv_ancestors", Heading: "Ancestors", Kind: report.List, Help: "What it was made from.", Get: onLV(blank, lvAncestors)},
		{Name: "lv_full_ancestors", Heading: "FAncestors", Kind: report.List, Help: "The same: cowl keeps no history of removed volumes.", Get: onLV(blank, lvAncestors)},
		{Name: "lv_descendants", Heading: "Descendants", Kind: report.List, Help: "What was made from it.", Get: onLV(blank, lvDescendants)},
		{Name: "lv_full_descendants", Heading: "FDescendants", Kind: report.List, Help: "The same: cowl keeps no history of removed volumes.", Get: onLV(blank, lvDescendants)},
		absent("raid_mismatch_count", "Mismatches", 0, report.Number),
		absent("raid_sync_action", "SyncAction", 0, report.String),
		absent("raid_write_behind", "WBehind", 0, report.Number),
		absent("raid_min_recovery_rate", "MinSync", 0, report.Number),
		absent("raid_max_recovery_rate", "MaxSync", 0, report.Number),
		absent("raidintegritymode", "IntegMode", 0, report.String),
		{Name: "raidintegrityblocksize", Heading: "IntegBlkSize", Kind: report.Number, Help: never, Get: always(minusOne)},
		absent("integritymismatches", "IntegMismatches", 0, report.Number),
		absent("move_pv", "Move", 0, report.String),
		absent("move_pv_uuid", "Move UUID", 38, report.String),
		absent("convert_lv", "Convert", 0, report.String),
		absent("convert_lv_uuid", "Convert UUID", 38, report.String),
		absent("mirror_log", "Log", 0, report.String),
		absent("mirror_log_uuid", "Log UUID", 38, report.String),
		absent("data_lv", "Data", 0, report.String),
		absent("data_lv_uuid", "Data UUID", 38, report.String),
		absent("metadata_lv", "Meta", 0, report.String),
		absent("metadata_lv_uuid", "Meta UUID", 38, report.String),
		absent("pool_lv", "Pool", 0, report.String),
		absent("pool_lv_uuid", "Pool UUID", 38, report.String),
		{Name: "lv_tags", Heading: "LV Tags", Kind: report.List, Help: "Tags.", Get: onLV(blank, func(r Row) report.Value { return tags(r.LV.Tags) })},
		{Name: "lv_profile", Heading: "LProfile", Help: "Configuration profile of LVM2.", Get: onLV(blank, func(r Row) report.Value { return report.Str(r.LV.Profile) })},
		absent("lv_lockargs", "LLockArgs", 0, report.String),
		{Name: "lv_time", Heading: "CTime", Width: 26, Kind: report.Time, Help: "When it was created.", Get: onLV(undefined, lvTime)},
		absent("lv_time_removed", "RTime", 26, report.Time),
		{Name: "lv_host", Heading: "Host", Width: 10, Help: "Where it was created.", Get: onLV(blank, func(r Row) report.Value { return report.Str(r.LV.CreationHost) })},
		{Name: "lv_modules", Heading: "Modules", Kind: report.List, Help: "Kernel modules that it would need there.", Get: onLV(blank, lvModules)},
		flag("lv_historical", "Historical", 0, "historical", "Never set: cowl keeps no history of removed volumes.", neverSet),
		{Name: "writecache_block_size", Heading: "WCacheBlkSize", Kind: report.Number, Help: never, Get: always(minusOne)},
	}
}

// flag makes a field of volumes that is set or not.
func flag(name, heading string, width int, word, help string, set func(Row) bool) *field {
	return &field{Name: name, Heading: heading, Width: width, Kind: report.Number, Flag: word, Help: help,
		Get: onLV(report.Flag(false), func(r Row) report.Value { return report.Flag(set(r)) })}
}

func neverSet(Row) bool { return false }

func textIf(condition bool, text string) string {
	if condition {
		return text
	}
	return ""
}

func lvUUID(r Row) report.Value { return report.Str(r.LV.ID.String()) }

func lvName(r Row) report.Value {
	if r.Group.visible[r.LV] {
		return report.Str(r.LV.Name)
	}
	return report.Value{Text: "[" + r.LV.Name + "]", Key: r.LV.Name}
}

func lvPath(r Row) report.Value {
	return report.Str(textIf(r.Group.visible[r.LV], "/dev/"+r.Group.Meta.Name+"/"+r.LV.Name))
}

// lvLayout names the type of the first segment, as LVM2's layouts begin with.
func lvLayout(r Row) report.Value {
	if len(r.LV.Segments) == 0 {
		return report.Strs([]string{"unknown"})
	}
	return report.Strs([]string{typeName(&r.LV.Segments[0])})
}

func lvRole(r Row) report.Value {
	_, isStore := r.Group.stores[r.LV]
	snaps := len(r.Group.origins[r.LV])
	roles := []string{"public"}
	if !isStore && !r.Group.visible[r.LV] {
		roles = []string{"private"}
	}
	if snaps > 0 {
		roles = append(roles, "origin", "thickorigin")
	}
	if snaps > 1 {
		roles = append(roles, "multithickorigin")
	}
	if isStore {
		roles = append(roles, "snapshot", "thicksnapshot")
	}
	return report.Strs(roles)
}

func (r Row) isMerging() bool {
	if s, ok := r.Group.stores[r.LV]; ok {
		return s.Segment.Merging
	}
	_, merging := r.Group.Merging(r.LV)
	return merging
}

func fixedNumber(n *int64) report.Value {
	if n == nil || *n < 0 {
		return minusOne
	}
	return report.Int(*n)
}

func lvReadAhead(r Row) report.Value {
	switch n := r.LV.ReadAhead; {
	case n == nil:
		return report.Undefined("auto")
	case *n == noReadAhead:
		return r.size(0)
	default:
		return r.size(volume.Sectors(*n).Bytes())
	}
}

func (r Row) ofOrigin(show func(*volume.LV) string) report.Value {
	if s, ok := r.Group.stores[r.LV]; ok {
		return report.Str(show(s.Origin))
	}
	return blank
}

func originSize(r Row) report.Value {
	if s, ok := r.Group.stores[r.LV]; ok {
		return r.extents(s.Size())
	}
	if len(r.Group.origins[r.LV]) > 0 {
		return r.extents(r.LV.Extents())
	}
	return undefined
}

func lvAncestors(r Row) report.Value {
	if s, ok := r.Group.stores[r.LV]; ok {
		return report.Strs([]string{s.Origin.Name})
	}
	return blank
}

func lvDescendants(r Row) report.Value {
	var names []string
	for _, s := range r.Group.origins[r.LV] {
		names = append(names, s.Cow.Name)
	}
	return report.Strs(names)
}

// TimeLayout is how LVM2 shows times.
const TimeLayout = "2006-01-02 15:04:05 -0700"

func lvTime(r Row) report.Value {
	if r.LV.CreationTime == 0 {
		return undefined
	}
	t := time.Unix(r.LV.CreationTime, 0).In(r.env.Zone)
	return report.Num(float64(r.LV.CreationTime), t.Format(TimeLayout))
}

func lvModules(r Row) report.Value {
	_, isStore := r.Group.stores[r.LV]
	if isStore || len(r.Group.origins[r.LV]) > 0 {
		return report.Strs([]string{"snapshot"})
	}
	return blank
}

// CreationText is when and where a volume was created, for lvdisplay.
func CreationText(lv *volume.LV, zone *time.Location) string {
	return lv.CreationHost + ", " + time.Unix(lv.CreationTime, 0).In(zone).Format(TimeLayout)
}

// percentText shows a store's usage with two decimals: 0.00 only when nothing
// but metadata is used, and 100.00 only when it is full.
func percentText(used, total, metadata volume.Sectors) string {
	switch {
	case total == 0 || used >= total:
		return "100.00"
	case used == metadata:
		return "0.00"
	}
	p := float64(used) * 100 / float64(total)
	p = min(max(p, 0.01), 99.99)
	return strconv.FormatFloat(p, 'f', 2, 64)
}
