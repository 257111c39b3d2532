package volume

// SizeOf says what a percentage in a Size is of.
type SizeOf string

// What LVM's -l N%... can refer to.
const (
	OfVG     SizeOf = "VG"     // all extents of the group
	OfFree   SizeOf = "FREE"   // its free extents
	OfPVs    SizeOf = "PVS"    // the extents of the PVs named on the command line
	OfOrigin SizeOf = "ORIGIN" // the origin's extents plus what a snapshot's metadata needs
	OfLV     SizeOf = "LV"     // the volume's present extents, when it is extended
)

// Size is a size as a person asks for it: bytes (-L), extents (-l N), or a
// percentage (-l N%FREE). Exactly one of Bytes, Extents and Percent is set;
// the zero Size means "not given".
type Size struct {
	Bytes   int64 // a multiple of 512, rounded up to extents when it is used
	Extents Extents
	Percent uint64
	Of      SizeOf
}

// PVRange limits allocation to extents of one PV: "PV" or "PV:start-end".
// Operations want it resolved: PV is then the key of the group's metadata.
type PVRange struct {
	PV         string  // path or "@tag" as a person types it, or the metadata key once resolved
	Start, End Extents // the first and last extent, unless Whole
	Whole      bool    // no range was given
}

// PVSpec describes a physical volume that joins a group.
type PVSpec struct {
	ID      UUID
	Device  string // path, stored as a hint
	DevSize Sectors
	PEStart Sectors
	// DataSize is the length of the data area, 0 if it ends with the device.
	DataSize        Sectors
	BAStart, BASize Sectors

	DeviceIDType, DeviceID string
	Tags                   []string
}

// GroupSpec asks for a new volume group.
type GroupSpec struct {
	Name           string
	ExtentSize     Sectors // 0: 4 MiB
	MaxLV, MaxPV   uint64  // 0: no limit
	Allocation     string  // "" for normal
	MetadataCopies uint64
	Tags           []string
	PVs            []PVSpec
}

// ExtendSpec asks for more space for a logical volume.
type ExtendSpec struct {
	Name string
	Size Size
	// Relative: Size is what is added, otherwise what the volume shall have.
	Relative bool
	PVs      []PVRange
}

// LVSpec asks for a new linear logical volume.
type LVSpec struct {
	Name       string // "" for the next free lvolN
	Size       Size
	PVs        []PVRange // nil: anywhere
	ReadOnly   bool
	Tags       []string
	Contiguous bool
}

// SnapshotSpec asks for a copy-on-write snapshot of a logical volume.
type SnapshotSpec struct {
	Origin    string
	Name      string // "" for the next free lvolN
	Size      Size   // of the COW store; the zero Size takes Advised, or a default
	ChunkSize Sectors
	PVs       []PVRange
	ReadOnly  bool
	Tags      []string

	// Advised is the COW store that is thought to be enough, for where no size
	// is given; nil if nobody knows better than the default.
	Advised *AdvisedCow
	// FreePart bounds what is taken where no size is given: one FreePart-th of
	// the free space, 0 for a half. See ShareFree.
	FreePart int
}

// MergeSpec asks for a snapshot to be merged into its origin.
type MergeSpec struct {
	Name string
	// Rate bounds how fast it is copied back, in bytes a second; 0 does not.
	// Nil leaves it to the snapshot's tags. A merge that has begun takes a new
	// one.
	Rate *int64
}

// AdvisedCow is a size with its reason.
type AdvisedCow struct {
	Bytes int64
	Why   string // a part of a sentence: "for 1h of writes as ..."
}
