// Package volume is the model of LVM2's metadata: volume groups, physical and
// logical volumes, segments, and the pure operations on them (allocation,
// creation, snapshots, merge, removal). It does no I/O, reads no clock and
// makes no random numbers: what an operation needs of those is an argument.
package volume

import (
	"cowl/internal/format/config"
)

// Sectors counts units of 512 bytes, as LVM2's metadata and device-mapper do.
type Sectors uint64

// Bytes converts to bytes.
func (s Sectors) Bytes() int64 { return int64(s) << 9 }

// Extents counts a group's extents, physical or logical.
type Extents uint64

// UUID is an LVM2 identifier: 32 characters of [0-9A-Za-z!#] as they are
// stored in a PV header, without dashes.
type UUID string

// Group is a volume group as its metadata describes it: values, no handles.
// LVs and PVs are in the metadata's order; LVs refer to each other, and
// segments to PVs, by name and metadata key, as in the text.
type Group struct {
	Name   string
	ID     UUID
	Seqno  uint64
	Format string   // "lvm2"
	Status []string // RESIZEABLE, READ, WRITE, EXPORTED, ...
	Flags  []string
	Tags   []string

	SystemID string
	LockType string

	ExtentSize     Sectors
	MaxLV, MaxPV   uint64 // 0: no limit
	Allocation     string // allocation_policy; "" means the default, normal
	Profile        string
	MetadataCopies uint64

	PVs []*PV
	LVs []*LV

	// Extra holds entries of the group's section that cowl does not know, in
	// order. They are written back as they were read.
	Extra []config.Node

	// What the text says about its own writing.
	Description  string
	CreationHost string
	CreationTime int64 // seconds since the epoch
	// Program, HostNote and TimeNote are the remarks that go with it: "Generated
	// by LVM2 version ...", the host's kernel, the time in words.
	Program, HostNote, TimeNote string
	// Outer is like Extra, of what stands outside of the group's section.
	Outer []config.Node
}

// PV is a physical volume as its group describes it.
type PV struct {
	Key    string // "pv0": how segments name it
	ID     UUID
	Device string // hint only
	// DeviceIDType and DeviceID are how LVM's devices file finds it ("" if unset).
	DeviceIDType, DeviceID string

	Status []string // ALLOCATABLE, MISSING, ...
	Flags  []string
	Tags   []string

	DevSize         Sectors
	PEStart         Sectors
	PECount         Extents
	BAStart, BASize Sectors // bootloader area, 0 if none

	Extra []config.Node
}

// LV is a logical volume as its group describes it. Snapshots follow LVM2:
// the COW store is an invisible LV under the snapshot's name, and an LV
// "snapshotN" with one segment of type "snapshot" ties it to its origin.
type LV struct {
	Name   string
	ID     UUID
	Status []string // READ, WRITE, VISIBLE, ...
	Flags  []string
	Tags   []string

	CreationTime int64 // seconds since the epoch, 0 if absent
	CreationHost string

	Allocation string // "" means inherit
	Profile    string
	ReadAhead  *int64 // sectors; -1 "none", nil auto
	Major      *int64 // fixed device number, nil if none
	Minor      *int64

	Segments []Segment
	Extra    []config.Node
}

// SegmentType is the word after "type =" in a segment.
type SegmentType string

// The types that cowl acts on. Others are carried through untouched.
const (
	Striped  SegmentType = "striped" // linear is striped with one stripe
	Snapshot SegmentType = "snapshot"
)

// Segment maps a run of a logical volume's extents.
type Segment struct {
	Start, Count Extents // logical
	Type         SegmentType
	Tags         []string

	// Striped.
	StripeSize Sectors // 0 with one stripe
	Stripes    []Area

	// Snapshot. Store is cow_store, or merging_store when Merging.
	ChunkSize Sectors
	Origin    string
	Store     string
	Merging   bool

	// Extra holds what cowl does not know: for other types, everything after
	// "type".
	Extra []config.Node
}

// Area is where one stripe of a segment begins: a physical extent of the PV
// with the given key (or, inside LVM's own layered types, an LV's name).
type Area struct {
	PV    string
	Start Extents
}
