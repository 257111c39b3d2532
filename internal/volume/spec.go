package volume

// SizeOf says what a percentage in a Size is of.
type SizeOf string

// What LVM's -l N%... can refer to.
const (
	OfVG     SizeOf = "VG"     // all extents of the group
	OfFree   SizeOf = "FREE"   // its free extents
	OfPVs    SizeOf = "PVS"    // the free extents of the PVs named on the command line
	OfOrigin SizeOf = "ORIGIN" // the origin's extents plus what a snapshot's metadata needs
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
type PVRange struct {
	PV         string // path, or the metadata key once resolved
	Start, End Extents
	Whole      bool // no range was given
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
	Size      Size   // of the COW store; the zero Size takes a default
	ChunkSize Sectors
	PVs       []PVRange
	ReadOnly  bool
	Tags      []string
}
