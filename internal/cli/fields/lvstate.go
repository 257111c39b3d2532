package fields

import (
	"strings"

	"cowl/internal/cli/report"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// lvInfoFields are the fields of a volume's device. cowl's volumes have no
// device numbers and no kernel.
func lvInfoFields() []*field {
	return []*field{
		{Name: "lv_kernel_major", Heading: "KMaj", Kind: report.Number, Help: "Major number: always -1, no kernel is involved.", Get: always(minusOne)},
		{Name: "lv_kernel_minor", Heading: "KMin", Kind: report.Number, Help: "Minor number: always -1, no kernel is involved.", Get: always(minusOne)},
		{Name: "lv_kernel_read_ahead", Heading: "KRahead", Kind: report.Size, Help: "Read ahead in use: always -1.", Get: always(minusOne)},
		{Name: "lv_permissions", Heading: "LPerms", Aliases: permissions, Help: "Permissions.", Get: onLV(blank, lvPermissions)},
		stateFlag("lv_suspended", "Suspended", 10, "suspended", "Set if it is suspended.", func(s *manager.LVStatus) bool { return s.Suspended }),
		stateFlag("lv_live_table", "LiveTable", 20, "live table present", "Set if it is active.", func(*manager.LVStatus) bool { return true }),
		stateFlag("lv_inactive_table", "InactiveTable", 20, "inactive table present", "Never set.", func(*manager.LVStatus) bool { return false }),
		stateFlag("lv_device_open", "DevOpen", 10, "open", "Set if somebody has it open.", func(s *manager.LVStatus) bool { return s.Opens > 0 }),
	}
}

// permissions are the words for a permission that selections may use.
var permissions = map[string]string{
	"rw": "writeable", "read-write": "writeable", "r": "read-only", "ro": "read-only",
	"ro-override": "read-only-override", "r-override": "read-only-override", "R": "read-only-override",
}

// lvStatusFields are the fields of what runs inside a volume.
func lvStatusFields() []*field {
	number := func(name, heading string, width int) *field { return absent(name, heading, width, report.Number) }
	return []*field{
		{Name: "data_percent", Heading: "Data%", Width: 6, Kind: report.Percent, Help: "Of an active snapshot, how full it is; while it is merged, how much is left.", Get: onLV(undefined, dataPercent)},
		{Name: "snap_percent", Heading: "Snap%", Width: 6, Kind: report.Percent, Help: "The same.", Get: onLV(undefined, dataPercent)},
		absent("metadata_percent", "Meta%", 6, report.Percent),
		absent("copy_percent", "Cpy%Sync", 0, report.Percent),
		absent("sync_percent", "Cpy%Sync", 0, report.Percent),
		number("cache_total_blocks", "CacheTotalBlocks", 0),
		number("cache_used_blocks", "CacheUsedBlocks", 16),
		number("cache_dirty_blocks", "CacheDirtyBlocks", 0),
		number("cache_read_hits", "CacheReadHits", 16),
		number("cache_read_misses", "CacheReadMisses", 16),
		number("cache_write_hits", "CacheWriteHits", 16),
		number("cache_write_misses", "CacheWriteMisses", 0),
		absent("kernel_cache_settings", "KCacheSettings", 18, report.List),
		absent("kernel_cache_policy", "KCachePolicy", 18, report.String),
		number("kernel_metadata_format", "KMFmt", 0),
		{Name: "lv_health_status", Heading: "Health", Width: 15, Help: "partial if a PV is missing.", Get: onLV(blank, func(r Row) report.Value {
			return report.Str(textIf(r.Group.missing[r.LV], "partial"))
		})},
		absent("kernel_discards", "KDiscards", 0, report.String),
		{Name: "lv_check_needed", Heading: "CheckNeeded", Width: 15, Kind: report.Number, Flag: "check needed", Help: never, Get: onLV(undefined, always(undefined))},
		cowFlag("lv_merge_failed", "MergeFailed", "merge failed", "Set if merging the snapshot failed.", func(c *manager.CowStatus) bool { return c.MergeFailed }),
		cowFlag("lv_snapshot_invalid", "SnapInvalid", "snapshot invalid", "Set if the snapshot overflowed.", func(c *manager.CowStatus) bool { return c.Invalid }),
		absent("vdo_operating_mode", "VDOOperatingMode", 0, report.String),
		absent("vdo_compression_state", "VDOCompressionState", 0, report.String),
		absent("vdo_index_state", "VDOIndexState", 0, report.String),
		number("vdo_used_size", "VDOUsedSize", 0),
		number("vdo_saving_percent", "VDOSaving%", 0),
		number("writecache_total_blocks", "WCacheTotalBlocks", 0),
		number("writecache_free_blocks", "WCacheFreeBlocks", 0),
		number("writecache_writeback_blocks", "WCacheWritebackBlocks", 0),
		number("writecache_error", "WCacheErrors", 0),
	}
}

func lvAttrFields() []*field {
	return []*field{{Name: "lv_attr", Heading: "Attr", Width: 10, Help: "Attributes, one character each; see cowl help lvs.", Get: onLV(blank, func(r Row) report.Value {
		return report.Str(r.attr())
	})}}
}

// state returns what runs of the volume, nil if it is not active.
func (r Row) state() *manager.LVStatus { return r.Group.Active(r.LV) }

// Active returns what runs of the volume, nil if it is not active.
func (g *Group) Active(lv *volume.LV) *manager.LVStatus {
	if s, ok := g.State[lv.Name]; ok {
		return &s
	}
	return nil
}

func (r Row) isActive() bool { return r.state() != nil }

// stateFlag makes a flag that is known of active volumes only.
func stateFlag(name, heading string, width int, word, help string, set func(*manager.LVStatus) bool) *field {
	return &field{Name: name, Heading: heading, Width: width, Kind: report.Number, Flag: word, Help: help,
		Get: onLV(undefined, func(r Row) report.Value {
			if s := r.state(); s != nil {
				return report.Flag(set(s))
			}
			return undefined
		})}
}

// cowFlag makes a flag that is known of active snapshots, and of an origin
// into which one is being merged.
func cowFlag(name, heading, word, help string, set func(*manager.CowStatus) bool) *field {
	return &field{Name: name, Heading: heading, Width: 15, Kind: report.Number, Flag: word, Help: help,
		Get: onLV(undefined, func(r Row) report.Value {
			if c := r.Group.Store(r.LV); c != nil {
				return report.Flag(set(c))
			}
			return undefined
		})}
}

func lvPermissions(r Row) report.Value {
	s := r.state()
	switch {
	case r.LV.ReadOnly():
		return report.Str("read-only")
	case s == nil:
		return report.Str("unknown")
	case s.ReadOnly:
		return report.Str("read-only-override")
	}
	return report.Str("writeable")
}

// Store returns the usage of the COW store that a volume's percentage is of:
// its own, or that of the snapshot being merged into it.
func (g *Group) Store(lv *volume.LV) *manager.CowStatus {
	s := g.Active(lv)
	if s == nil || s.Cow != nil || s.Merging == "" {
		if s == nil {
			return nil
		}
		return s.Cow
	}
	if snap, ok := g.State[s.Merging]; ok && snap.Cow != nil && !snap.Cow.Delayed {
		return snap.Cow
	}
	return nil
}

func dataPercent(r Row) report.Value {
	c := r.Group.Store(r.LV)
	if c == nil {
		return undefined
	}
	text := Percent(c)
	n := float64(c.Allocated) * 100 / float64(max(1, c.Total))
	if c.Invalid || c.MergeFailed {
		n = 100
	}
	return report.Num(n, text)
}

// Percent shows how full a store is.
func Percent(c *manager.CowStatus) string {
	if c.Invalid || c.MergeFailed {
		return "100.00"
	}
	return percentText(c.Allocated, c.Total, c.Metadata)
}

// attr returns the ten characters of lv_attr.
func (r Row) attr() string {
	attr := []byte("----------")
	lv, g := r.LV, r.Group
	store, isStore := g.stores[lv]
	isOrigin := len(g.origins[lv]) > 0
	s := r.state()
	attr[0] = r.attrType(store, isStore, isOrigin)
	switch {
	case lv.ReadOnly():
		attr[1] = 'r'
	case s != nil && s.ReadOnly:
		attr[1] = 'R'
	default:
		attr[1] = 'w'
	}
	attr[2] = policies[orElse(lv.Allocation, "inherit")]
	if lv.Has(statusLocked) {
		attr[2] = strings.ToUpper(string(attr[2]))[0]
	}
	if lv.Has(statusFixed) {
		attr[3] = 'm'
	}
	if s != nil {
		attr[4] = r.attrState(s)
		if s.Opens > 0 {
			attr[5] = 'o'
		}
	}
	if isStore || isOrigin {
		attr[6] = 's'
	} else if len(lv.Segments) > 0 {
		attr[6] = foreignTarget(lv.Segments[0].Type)
	}
	if g.missing[lv] {
		attr[8] = 'p'
	}
	if hasFlag(lv.Flags, flagSkip) {
		attr[9] = 'k'
	}
	return string(attr)
}

func (r Row) attrType(store volume.Snap, isStore, isOrigin bool) byte {
	_, merging := r.Group.Merging(r.LV)
	switch {
	case isStore && store.Segment.Merging:
		return 'S'
	case isStore:
		return 's'
	case merging:
		return 'O'
	case isOrigin:
		return 'o'
	case len(r.LV.Segments) == 0:
		return '-'
	}
	return foreignType(r.LV.Segments[0].Type)
}

// attrState is the fifth character of an active volume.
func (r Row) attrState(s *manager.LVStatus) byte {
	c := r.Group.Store(r.LV)
	state := byte('a')
	switch {
	case c != nil && c.Invalid && s.Cow != nil:
		state = 'I'
	case c != nil && c.MergeFailed:
		state = 'm'
	}
	if !s.Suspended {
		return state
	}
	return map[byte]byte{'a': 's', 'I': 'S', 'm': 'M'}[state]
}

// foreignType is the first character for volumes that cowl does not run.
func foreignType(t volume.SegmentType) byte {
	switch name := string(t); {
	case strings.HasPrefix(name, "raid"):
		return 'r'
	case name == "mirror":
		return 'm'
	case name == "thin":
		return 'V'
	case name == "thin-pool":
		return 't'
	case name == "vdo-pool":
		return 'd'
	case name == "cache", name == "cache-pool", name == "writecache":
		return 'C'
	case name == "zero", name == "error", name == "vdo":
		return 'v'
	}
	return '-'
}

// foreignTarget is the seventh character for volumes that cowl does not run.
func foreignTarget(t volume.SegmentType) byte {
	switch c := foreignType(t); c {
	case 'V', 't':
		return 't'
	case 'r', 'm', 'C', 'v', 'd':
		return c
	}
	return '-'
}
