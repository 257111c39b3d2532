package vgtext

import (
	"slices"

	"cowl/internal/format/config"
	"cowl/internal/volume"
)

// Encode returns the group's text as LVM2 writes it on disk, without the NUL
// that follows it there.
func Encode(vg *volume.Group) []byte {
	e := &encoder{hideWrite: hidesWrite(vg)}
	e.group(vg)
	e.trailer(vg)
	return e.w.Bytes()
}

type encoder struct {
	w         config.Writer
	hideWrite bool // see writeLocked

	// For remarks, which only backup files have.
	extentSize  volume.Sectors
	segmentType volume.SegmentType
	times       func(seconds int64) string
}

// section writes the entries of one section, and what is carried between them.
type section struct {
	*encoder
	extra   []config.Node
	carried map[string][]int // indexes into extra by the key before, nil once written
}

func (e *encoder) section(extra []config.Node) *section {
	s := &section{encoder: e, extra: extra}
	if len(extra) > 0 {
		s.carried = map[string][]int{}
		for i := range extra {
			s.carried[extra[i].After] = append(s.carried[extra[i].After], i)
		}
	}
	s.end("")
	return s
}

// end follows every place where a known entry stands, or would if it were not
// left out, with what is carried behind it.
func (s *section) end(key string) {
	for _, i := range s.carried[key] {
		s.w.Node(s.extra[i])
	}
	delete(s.carried, key)
}

// endBlank is end where the section's layout has an empty line. It goes in front
// of what is carried if there was one, and otherwise behind.
func (s *section) endBlank(key string) {
	carried := s.carried[key]
	if len(carried) == 0 || !s.extra[carried[0]].Blank {
		s.end(key)
		s.w.Blank()
		return
	}
	s.end(key)
}

// rest writes what is carried behind entries that no longer exist.
func (s *section) rest() {
	if len(s.carried) == 0 {
		return
	}
	for i := range s.extra {
		if _, left := s.carried[s.extra[i].After]; left {
			s.w.Node(s.extra[i])
		}
	}
}

func (s *section) noted(key string, v config.Value, remark string) {
	s.notedIf(true, key, v, remark)
}

func (s *section) number(key string, n uint64) {
	s.noted(key, config.IntValue(int64(n)), "")
}

func (s *section) sectors(key string, n volume.Sectors) {
	s.noted(key, config.IntValue(int64(n)), sizeInWords(float64(n)))
}

// extents writes a number of extents with the size that they are.
func (s *section) extents(key string, n volume.Extents) {
	s.noted(key, config.IntValue(int64(n)), s.extentsInWords(n))
}

func (e *encoder) extentsInWords(n volume.Extents) string {
	return sizeInWords(float64(n) * float64(e.extentSize))
}

func (s *section) text(key, value string) {
	s.noted(key, config.StringValue(value), "")
}

// notedIf leaves out what is not set, as LVM2 does.
func (s *section) notedIf(set bool, key string, v config.Value, remark string) {
	if set {
		s.w.AssignNoted(key, v, remark)
	}
	s.end(key)
}

func (s *section) textUnlessEmpty(key, value string) {
	s.notedIf(value != "", key, config.StringValue(value), "")
}

func (s *section) words(key string, list []string) {
	s.noted(key, config.StringsValue(list), "")
}

func (s *section) wordsUnlessEmpty(key string, list []string) {
	s.notedIf(len(list) > 0, key, config.StringsValue(list), "")
}

func (s *section) optional(key string, n *int64, remark string) {
	if n == nil {
		s.end(key)
		return
	}
	s.noted(key, config.IntValue(*n), remark)
}

// access writes status and flags of a group or an LV.
func (s *section) access(status, flags []string) {
	if at := slices.Index(status, "WRITE"); s.hideWrite && at >= 0 {
		status = slices.Concat(status[:at], status[at+1:])
		flags = slices.Concat([]string{writeLocked}, flags)
	}
	s.words("status", status)
	s.words("flags", flags)
}

// group writes the group's section, in LVM2's order of keys.
func (e *encoder) group(vg *volume.Group) {
	e.extentSize = vg.ExtentSize
	e.w.Open(vg.Name)
	s := e.section(vg.Extra)
	s.text("id", vg.ID.String())
	s.number("seqno", vg.Seqno)
	s.notedIf(vg.Format != "", "format", config.StringValue(vg.Format), "informational")
	s.access(vg.Status, vg.Flags)
	s.wordsUnlessEmpty("tags", vg.Tags)
	s.textUnlessEmpty("system_id", vg.SystemID)
	s.textUnlessEmpty("lock_type", vg.LockType)
	s.sectors("extent_size", vg.ExtentSize)
	s.number("max_lv", vg.MaxLV)
	s.number("max_pv", vg.MaxPV)
	if vg.Allocation != "" {
		e.w.Blank()
	}
	s.textUnlessEmpty("allocation_policy", vg.Allocation)
	s.textUnlessEmpty("profile", vg.Profile)
	e.w.Assign("metadata_copies", config.IntValue(int64(vg.MetadataCopies)))
	s.endBlank("metadata_copies")
	e.physicalVolumes(vg)
	s.endBlank("physical_volumes")
	e.logicalVolumes(vg)
	s.endBlank("logical_volumes")
	s.rest()
	e.w.Close()
}

func (e *encoder) physicalVolumes(vg *volume.Group) {
	e.w.Open("physical_volumes")
	for _, pv := range vg.PVs {
		e.w.Blank()
		e.physicalVolume(pv)
	}
	e.w.Close()
}

func (e *encoder) physicalVolume(pv *volume.PV) {
	e.w.Open(pv.Key)
	s := e.section(pv.Extra)
	s.text("id", pv.ID.String())
	e.w.AssignNoted("device", config.StringValue(pv.Device), "Hint only")
	s.endBlank("device")
	s.textUnlessEmpty("device_id_type", pv.DeviceIDType)
	s.textUnlessEmpty("device_id", pv.DeviceID)
	s.words("status", pv.Status)
	s.words("flags", pv.Flags)
	s.wordsUnlessEmpty("tags", pv.Tags)
	s.sectors("dev_size", pv.DevSize)
	s.number("pe_start", uint64(pv.PEStart))
	s.extents("pe_count", pv.PECount)
	s.notedIf(pv.BASize != 0, "ba_start", config.IntValue(int64(pv.BAStart)), "")
	s.notedIf(pv.BASize != 0, "ba_size", config.IntValue(int64(pv.BASize)), sizeInWords(float64(pv.BASize)))
	s.rest()
	e.w.Close()
}

func (e *encoder) logicalVolumes(vg *volume.Group) {
	if len(vg.LVs) == 0 {
		return
	}
	e.w.Open("logical_volumes")
	for _, lv := range vg.LVs {
		e.w.Blank()
		e.logicalVolume(lv)
	}
	e.w.Close()
}

func (e *encoder) logicalVolume(lv *volume.LV) {
	e.w.Open(lv.Name)
	s := e.section(lv.Extra)
	s.text("id", lv.ID.String())
	s.access(lv.Status, lv.Flags)
	s.wordsUnlessEmpty("tags", lv.Tags)
	created := ""
	if e.times != nil {
		created = e.times(lv.CreationTime)
	}
	s.notedIf(lv.CreationTime != 0, "creation_time", config.IntValue(lv.CreationTime), created)
	s.textUnlessEmpty("creation_host", lv.CreationHost)
	s.textUnlessEmpty("allocation_policy", lv.Allocation)
	s.textUnlessEmpty("profile", lv.Profile)
	readAhead := ""
	if lv.ReadAhead != nil && *lv.ReadAhead == -1 {
		readAhead = "None"
	}
	s.optional("read_ahead", lv.ReadAhead, readAhead)
	s.optional("major", lv.Major, "")
	s.optional("minor", lv.Minor, "")
	e.w.Assign("segment_count", config.IntValue(int64(len(lv.Segments))))
	s.endBlank("segment_count")
	for i := range lv.Segments {
		e.segment(segmentKey(i), &lv.Segments[i])
		s.end(segmentKey(i))
	}
	s.rest()
	e.w.Close()
}

func (e *encoder) segment(key string, seg *volume.Segment) {
	e.segmentType = seg.Type
	e.w.Open(key)
	s := e.section(seg.Extra)
	s.number("start_extent", uint64(seg.Start))
	e.w.AssignNoted("extent_count", config.IntValue(int64(seg.Count)), e.extentsInWords(seg.Count))
	s.endBlank("extent_count")
	s.text("type", string(seg.Type))
	s.wordsUnlessEmpty("tags", seg.Tags)
	switch seg.Type {
	case volume.Striped:
		s.striped(seg)
	case volume.Snapshot:
		s.snapshot(seg)
	}
	s.rest()
	e.w.Close()
}

func (s *section) striped(seg *volume.Segment) {
	remark := ""
	if len(seg.Stripes) == 1 {
		remark = "linear"
	}
	s.noted("stripe_count", config.IntValue(int64(len(seg.Stripes))), remark)
	if len(seg.Stripes) > 1 {
		s.w.AssignNoted("stripe_size", config.IntValue(int64(seg.StripeSize)), sizeInWords(float64(seg.StripeSize)))
	}
	s.endBlank("stripe_size")
	v := config.Value{Kind: config.Array, PerLine: 2}
	for _, a := range seg.Stripes {
		v.Array = append(v.Array, config.StringValue(a.PV), config.IntValue(int64(a.Start)))
	}
	s.noted("stripes", v, "")
}

func (s *section) snapshot(seg *volume.Segment) {
	store := "cow_store"
	if seg.Merging {
		store = "merging_store"
	}
	s.number("chunk_size", uint64(seg.ChunkSize))
	s.text("origin", seg.Origin)
	s.text(store, seg.Store)
}

// trailer writes the lines about the text itself, which stand after the group
// on disk and before it in a backup file.
func (e *encoder) trailer(vg *volume.Group) {
	s := e.section(vg.Outer)
	program := oneLine(vg.Program)
	if program == "" {
		program = defaultProgram
	}
	e.w.Comment(program)
	e.w.Blank()
	s.text("contents", contents)
	e.w.Assign("version", config.IntValue(textVersion))
	s.endBlank("version")
	e.w.Assign("description", config.StringValue(vg.Description))
	s.endBlank("description")
	e.w.AssignRemarked("creation_host", config.StringValue(vg.CreationHost), oneLine(vg.HostNote))
	s.end("creation_host")
	e.w.AssignRemarked("creation_time", config.IntValue(vg.CreationTime), oneLine(vg.TimeNote))
	s.end("creation_time")
	s.rest()
	e.w.Blank()
}
