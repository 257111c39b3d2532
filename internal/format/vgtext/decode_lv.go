package vgtext

import (
	"math"
	"strconv"

	"cowl/internal/format/config"
	"cowl/internal/volume"
)

// logicalVolumes reads all LVs, whose names are unique.
func (d *decoder) logicalVolumes(vg *volume.Group, section config.Node) {
	at := d.at
	d.children(section, func(n config.Node) {
		d.at = at + ": logical volume " + n.Key
		vg.LVs = append(vg.LVs, d.logicalVolume(n))
	})
	d.at = at
}

func (d *decoder) logicalVolume(section config.Node) *volume.LV {
	lv := &volume.LV{Name: d.name(section.Key)}
	count := uint64(0)
	set := func(n config.Node) bool {
		switch n.Key {
		case "id":
			lv.ID = d.uuid(n)
		case "status":
			lv.Status = d.words(n)
		case "flags":
			lv.Flags = d.words(n)
		case "tags":
			lv.Tags = d.words(n)
		case "creation_time":
			lv.CreationTime = d.integer(n)
		case "creation_host":
			lv.CreationHost = d.text(n)
		case "allocation_policy":
			lv.Allocation = d.text(n)
		case "profile":
			lv.Profile = d.text(n)
		case "read_ahead":
			lv.ReadAhead = d.optional(n)
		case "major":
			lv.Major = d.optional(n)
		case "minor":
			lv.Minor = d.optional(n)
		case "segment_count":
			count = d.number(n, math.MaxUint32)
		default:
			if n.Section && n.Key == segmentKey(len(lv.Segments)) {
				lv.Segments = append(lv.Segments, d.segment(n))
				return true
			}
			return false
		}
		return true
	}
	lv.Extra = d.entries(section.Children, set)
	d.need("id", lv.ID != "")
	d.need("status", lv.Status != nil)
	if uint64(len(lv.Segments)) != count {
		d.fail("%d segments (want segment_count = %d, numbered in order)", len(lv.Segments), count)
	}
	return lv
}

// segmentKey is the name of the segment with the given index.
func segmentKey(i int) string { return "segment" + strconv.Itoa(i+1) }

// segment reads one segment. The type decides what the other keys mean, so it
// is looked up first.
func (d *decoder) segment(section config.Node) volume.Segment {
	at := d.at
	d.at += " " + section.Key
	s := volume.Segment{}
	for _, n := range section.Children {
		if n.Key == "type" {
			s.Type = volume.SegmentType(d.text(n))
		}
	}
	d.need("type", s.Type != "")

	var of typed
	switch s.Type {
	case volume.Striped:
		of = &stripedKeys{}
	case volume.Snapshot:
		of = &snapshotKeys{}
	default:
		of = foreignKeys{}
	}
	s.Extra = d.entries(section.Children, func(n config.Node) bool {
		switch n.Key {
		case "type":
		case "start_extent":
			s.Start = d.extents(n)
		case "extent_count":
			s.Count = d.extents(n)
		case "tags":
			s.Tags = d.words(n)
		default:
			return of.set(d, &s, n)
		}
		return true
	})
	of.check(d, &s)
	d.at = at
	return s
}

// typed reads the keys that belong to a type of segment.
type typed interface {
	set(d *decoder, s *volume.Segment, n config.Node) bool
	check(d *decoder, s *volume.Segment)
}

// foreignKeys are those of a type that cowl only carries: all unknown.
type foreignKeys struct{}

func (foreignKeys) set(*decoder, *volume.Segment, config.Node) bool { return false }
func (foreignKeys) check(*decoder, *volume.Segment)                 {}

type stripedKeys struct{ count uint64 }

func (k *stripedKeys) set(d *decoder, s *volume.Segment, n config.Node) bool {
	switch n.Key {
	case "stripe_count":
		k.count = d.number(n, math.MaxUint32)
	case "stripe_size":
		s.StripeSize = d.sectors(n)
	case "stripes":
		s.Stripes = d.areas(n)
	default:
		return false
	}
	return true
}

func (k *stripedKeys) check(d *decoder, s *volume.Segment) {
	if k.count == 0 || uint64(len(s.Stripes)) != k.count {
		d.fail("%d stripes (want stripe_count = %d, at least 1)", len(s.Stripes), k.count)
	}
}

type snapshotKeys struct{ stores int }

func (k *snapshotKeys) set(d *decoder, s *volume.Segment, n config.Node) bool {
	switch n.Key {
	case "chunk_size":
		s.ChunkSize = d.sectors(n)
	case "origin":
		s.Origin = d.text(n)
	case "cow_store", "merging_store":
		s.Store = d.text(n)
		s.Merging = n.Key == "merging_store"
		k.stores++
	default:
		return false
	}
	return true
}

func (k *snapshotKeys) check(d *decoder, s *volume.Segment) {
	d.need("chunk_size", s.ChunkSize != 0)
	d.need("origin", s.Origin != "")
	if k.stores != 1 || s.Store == "" {
		d.fail("want one of cow_store and merging_store")
	}
}

// areas reads "name", extent, "name", extent, ...
func (d *decoder) areas(n config.Node) []volume.Area {
	elems := n.Value.Array
	if n.Section || n.Value.Kind != config.Array || len(elems)%2 != 0 {
		d.fail("%s is not a list of names and extents", n.Key)
		return nil
	}
	areas := make([]volume.Area, 0, len(elems)/2)
	for i := 0; i < len(elems); i += 2 {
		name, start := elems[i], elems[i+1]
		if name.Kind != config.String || start.Kind != config.Int || start.Int < 0 || start.Int > maxExtents {
			d.fail("%s is not a list of names and extents", n.Key)
			return nil
		}
		areas = append(areas, volume.Area{PV: name.Text, Start: volume.Extents(start.Int)})
	}
	return areas
}

// text reads a string.
func (d *decoder) text(n config.Node) string {
	if n.Section || n.Value.Kind != config.String {
		d.fail("%s is not a string", n.Key)
		return ""
	}
	return n.Value.Text
}

// integer reads a number of either sign.
func (d *decoder) integer(n config.Node) int64 {
	if n.Section || n.Value.Kind != config.Int {
		d.fail("%s is not an integer", n.Key)
		return 0
	}
	return n.Value.Int
}

func (d *decoder) optional(n config.Node) *int64 {
	v := d.integer(n)
	return &v
}

// number reads a count up to most.
func (d *decoder) number(n config.Node, most int64) uint64 {
	v := d.integer(n)
	if v < 0 || v > most {
		d.fail("%s = %d (want 0 to %d)", n.Key, v, most)
		return 0
	}
	return uint64(v)
}

func (d *decoder) sectors(n config.Node) volume.Sectors {
	return volume.Sectors(d.number(n, maxSectors))
}

func (d *decoder) extents(n config.Node) volume.Extents {
	return volume.Extents(d.number(n, maxExtents))
}

func (d *decoder) uuid(n config.Node) volume.UUID {
	id, err := volume.ParseUUID(d.text(n))
	if err != nil {
		d.fail("%s: %v", n.Key, err)
	}
	return id
}

// words reads a list of strings; LVM2 takes a lone string for a list of one.
// The result is not nil.
func (d *decoder) words(n config.Node) []string {
	v := n.Value
	if v.Kind == config.String && !n.Section {
		return []string{v.Text}
	}
	if n.Section || v.Kind != config.Array {
		d.fail("%s is not a list of strings", n.Key)
	}
	words := make([]string, 0, len(v.Array))
	for _, e := range v.Array {
		if e.Kind != config.String {
			d.fail("%s is not a list of strings", n.Key)
		}
		words = append(words, e.Text)
	}
	return words
}

// name checks a name that becomes part of paths and keys: LVM2's characters,
// no leading hyphen, neither "." nor "..".
func (d *decoder) name(s string) string {
	if volume.CheckGroupName(s) != nil {
		d.fail("%.140q is not a valid name", s)
	}
	return s
}
