package fields

import (
	"fmt"
	"strings"

	"cowl/internal/cli/report"
	"cowl/internal/volume"
)

// segFields are the fields of segments. On rows of free extents they say so.
func segFields() []*field {
	size := func(name, heading string, width int, help string, get func(Row) report.Value) *field {
		return &field{Name: name, Heading: heading, Width: width, Kind: report.Size, Help: help,
			Get: func(r Row) report.Value {
				if r.Seg == nil {
					return r.size(0)
				}
				return get(r)
			}}
	}
	count := func(name, heading, help string, get func(Row) int) *field {
		return &field{Name: name, Heading: heading, Kind: report.Number, Help: help,
			Get: func(r Row) report.Value {
				if r.Seg == nil {
					return zero
				}
				return report.Int(get(r))
			}}
	}
	number := func(name, heading string) *field { return absent(name, heading, 0, report.Number) }
	segSize := size("seg_size", "SSize", 0, "Size.", nil)
	segSize.Get = segBytes
	length := count("seg_size_pe", "SSize", "Size in extents.", nil)
	length.Kind, length.Get = report.Size, func(r Row) report.Value { return report.Int(r.segCount()) }
	return []*field{
		{Name: "segtype", Heading: "Type", Help: "Type of the segment.", Get: segType},
		count("stripes", "#Str", "Number of stripes.", func(r Row) int { return len(r.Seg.Stripes) }),
		count("data_stripes", "#DStr", "Number of stripes that hold data.", func(r Row) int { return len(r.Seg.Stripes) }),
		absent("reshape_len", "RSize", 0, report.Size),
		number("reshape_len_le", "RSize"),
		{Name: "data_copies", Heading: "#Cpy", Kind: report.Number, Help: "Number of copies of the data.", Get: dataCopies},
		number("data_offset", "DOff"),
		number("new_data_offset", "NOff"),
		number("parity_chunks", "#Par"),
		size("stripe_size", "Stripe", 0, "How much goes to one PV before the next.", func(r Row) report.Value { return r.size(r.Seg.StripeSize.Bytes()) }),
		size("region_size", "Region", 0, never, func(r Row) report.Value { return r.size(0) }),
		size("chunk_size", "Chunk", 0, "Of a snapshot, the unit of copying.", chunkSize),
		absent("thin_count", "#Thins", 0, report.Number),
		absent("discards", "Discards", 0, report.String),
		number("cache_metadata_format", "CMFmt"),
		absent("cache_mode", "CacheMode", 0, report.String),
		{Name: "zero", Heading: "Zero", Kind: report.Number, Flag: "zero", Help: never, Get: always(undefined)},
		number("transaction_id", "TransId"),
		number("thin_id", "ThId"),
		size("seg_start", "Start", 0, "Where it begins in the volume.", func(r Row) report.Value { return r.extents(r.Seg.Start) }),
		count("seg_start_pe", "Start", "Where it begins, in extents.", func(r Row) int { return int(r.Seg.Start) }),
		segSize,
		length,
		{Name: "seg_tags", Heading: "Seg Tags", Kind: report.List, Help: "Tags.", Get: func(r Row) report.Value {
			if r.Seg == nil {
				return blank
			}
			return tags(r.Seg.Tags)
		}},
		{Name: "seg_pe_ranges", Heading: "PE Ranges", Kind: report.List, Help: "Extents of PVs, with spaces between, as the command line takes them.", Get: func(r Row) report.Value {
			v := peRanges(r)
			v.Text = strings.Join(v.Items, " ")
			return v
		}},
		{Name: "seg_le_ranges", Heading: "LE Ranges", Kind: report.List, Help: "The same, with commas between.", Get: peRanges},
		absent("seg_metadata_le_ranges", "Metadata LE Ranges", 0, report.List),
		{Name: "devices", Heading: "Devices", Kind: report.List, Help: "PVs, each with the first extent.", Get: devices},
		absent("metadata_devices", "Metadata Devs", 0, report.List),
		absent("seg_monitor", "Monitor", 0, report.String),
		absent("cache_policy", "CachePolicy", 0, report.String),
		absent("cache_settings", "CacheSettings", 0, report.List),
		number("vdo_compression", "VDOCompression"),
		number("vdo_deduplication", "VDODeduplication"),
		number("vdo_use_metadata_hints", "VDOMetadataHints"),
		number("vdo_minimum_io_size", "VDOMinimumIOSize"),
		absent("vdo_block_map_cache_size", "VDOBlockMapCacheSize", 0, report.Size),
		number("vdo_block_map_era_length", "VDOBlockMapEraLength"),
		number("vdo_use_sparse_index", "VDOSparseIndex"),
		absent("vdo_index_memory_size", "VDOIndexMemorySize", 0, report.Size),
		absent("vdo_slab_size", "VDOSlabSize", 0, report.Size),
		number("vdo_ack_threads", "VDOAckThreads"),
		number("vdo_bio_threads", "VDOBioThreads"),
		number("vdo_bio_rotation", "VDOBioRotation"),
		number("vdo_cpu_threads", "VDOCPUThreads"),
		number("vdo_hash_zone_threads", "VDOHashZoneThreads"),
		number("vdo_logical_threads", "VDOLogicalThreads"),
		number("vdo_physical_threads", "VDOPhysicalThreads"),
		number("vdo_max_discard", "VDOMaxDiscard"),
		absent("vdo_write_policy", "VDOWritePolicy", 0, report.String),
		absent("vdo_header_size", "VDOHeaderSize", 0, report.Size),
	}
}

// segCount is the length of the row's segment or free run in extents.
func (r Row) segCount() volume.Extents {
	switch {
	case r.Seg != nil:
		return r.Seg.Count
	case r.Run != nil:
		return r.Run.Count
	}
	return 0
}

func segBytes(r Row) report.Value {
	if r.Group == nil {
		return r.size(0)
	}
	return r.extents(r.segCount())
}

func segType(r Row) report.Value {
	if r.Seg == nil {
		return report.Str("free")
	}
	return report.Str(typeName(r.Seg))
}

func dataCopies(r Row) report.Value {
	if r.Seg == nil {
		return undefined
	}
	return report.Int(1)
}

// chunkSize is the snapshot's whose COW store the segment belongs to.
func chunkSize(r Row) report.Value {
	if s, ok := r.Group.stores[r.LV]; ok {
		return r.size(s.Segment.ChunkSize.Bytes())
	}
	return r.size(0)
}

func peRanges(r Row) report.Value {
	return r.areas(func(path string, a volume.Area) string {
		return fmt.Sprintf("%s:%d-%d", path, a.Start, a.Start+r.Seg.AreaLen()-1)
	})
}

func devices(r Row) report.Value {
	return r.areas(func(path string, a volume.Area) string { return fmt.Sprintf("%s(%d)", path, a.Start) })
}

func (r Row) areas(show func(string, volume.Area) string) report.Value {
	if r.Seg == nil {
		return blank
	}
	var out []string
	for _, a := range r.Seg.Stripes {
		out = append(out, show(r.Group.Path(a.PV), a))
	}
	return report.Strs(out)
}
