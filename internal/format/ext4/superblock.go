package ext4

import (
	"bytes"

	"cowl/internal/errs"
)

const (
	// SuperblockOffset is where the superblock stands, whatever the block
	// size, in bytes from the start of the device.
	SuperblockOffset = 1024
	// SuperblockSize is its size in bytes.
	SuperblockSize = 1024
	// Magic marks a superblock.
	Magic = 0xef53
	// RootInode and JournalInode have fixed numbers.
	RootInode Ino = 2
	// MinBlock and MaxBlock bound a block's size in bytes.
	MinBlock = 1024
	MaxBlock = 64 << 10

	oldInodeSize = 128
	oldFirstIno  = 11
	oldDescSize  = 32
	checksumCRC  = 1 // the only type of checksum that there is
	creatorHurd  = 1
)

// Ino is the number of an inode, from 1.
type Ino uint32

// Superblock is what describes the file system. Only what a reader needs is
// decoded.
type Superblock struct {
	Inodes         uint32
	Blocks         uint64
	FreeBlocks     uint64
	FreeInodes     uint32
	FirstDataBlock uint32
	BlockSize      int // bytes, a power of 2
	ClusterSize    int // bytes; BlockSize without bigalloc
	BlocksPerGroup uint32
	InodesPerGroup uint32
	Revision       uint32
	Hurd           bool // made by the GNU Hurd
	FirstIno       Ino  // the first that is not reserved
	InodeSize      int  // bytes
	Compat         Features
	Incompat       Features
	ROCompat       Features
	UUID           [16]byte
	Label          string // as stored, without trailing NULs
	LastMounted    string
	JournalUUID    [16]byte // of an external journal
	JournalInode   Ino
	JournalDevice  uint32
	LastOrphan     Ino
	DescSize       int // of a group descriptor, bytes
	FirstMetaBG    uint32
	BackupGroups   [2]uint32 // with sparse_super2
	Encoding       uint16    // of names in case-insensitive directories
	MountTime      int64     // seconds
	WriteTime      int64
	// Seed is where the checksums of metadata_csum begin.
	Seed uint32
}

// IsExt tells whether the bytes at SuperblockOffset bear the mark of ext2,
// ext3 or ext4. It says nothing of whether they are whole.
func IsExt(sb []byte) bool { return len(sb) >= 0x3a && le.Uint16(sb[0x38:]) == Magic }

// DecodeSuperblock decodes the SuperblockSize bytes at SuperblockOffset. It
// returns errs.NotFound where there is no file system of this family,
// errs.Unsupported, naming them, for features that cowl does not read.
func DecodeSuperblock(b []byte) (*Superblock, error) {
	if len(b) != SuperblockSize {
		return nil, errs.E(errs.Usage, "superblock: got %d bytes, want %d", len(b), SuperblockSize)
	}
	if !IsExt(b) {
		return nil, errs.E(errs.NotFound, "no ext2, ext3 or ext4 here: magic number %#04x, want %#04x", le.Uint16(b[0x38:]), Magic)
	}
	sb := decodeSuperblock(b)
	if names := unreadable(sb.Incompat); names != "" {
		return nil, sb.refusal(names)
	}
	if sb.ROCompat&ROCompatMetadataCsum != 0 {
		if b[0x175] != checksumCRC {
			return nil, errs.E(errs.Unsupported, "superblock: checksums of type %d, cowl knows type %d", b[0x175], checksumCRC)
		}
		if want, got := CRC32C(fresh, b[:0x3fc]), le.Uint32(b[0x3fc:]); want != got {
			return nil, corrupt("superblock: bad checksum (want %#08x, got %#08x)", want, got)
		}
	}
	if err := sb.Validate(); err != nil {
		return nil, err
	}
	return sb, nil
}

// refusal explains what the features mean that cannot be read.
func (sb *Superblock) refusal(names string) error {
	if sb.Incompat&IncompatJournalDev != 0 {
		return errs.E(errs.Unsupported, "this is no file system but the journal of one (feature journal_dev)")
	}
	return errs.E(errs.Unsupported, "the file system has features that cowl does not read: %s", names)
}

func decodeSuperblock(b []byte) *Superblock {
	u16 := func(off int) uint16 { return le.Uint16(b[off:]) }
	u32 := func(off int) uint32 { return le.Uint32(b[off:]) }
	sb := &Superblock{
		Inodes: u32(0x00), Blocks: uint64(u32(0x04)), FreeBlocks: uint64(u32(0x0c)), FreeInodes: u32(0x10),
		FirstDataBlock: u32(0x14), BlockSize: shifted(u32(0x18)), ClusterSize: shifted(u32(0x18)),
		BlocksPerGroup: u32(0x20), InodesPerGroup: u32(0x28),
		MountTime: int64(u32(0x2c)), WriteTime: int64(u32(0x30)),
		Hurd: u32(0x48) == creatorHurd, Revision: u32(0x4c),
		FirstIno: oldFirstIno, InodeSize: oldInodeSize, DescSize: oldDescSize,
	}
	if sb.Revision > 0 {
		sb.FirstIno, sb.InodeSize = Ino(u32(0x54)), int(u16(0x58))
	}
	// Revision 0 has zeroes in all that follows. The kernel goes by what is
	// there.
	sb.Compat, sb.Incompat, sb.ROCompat = Features(u32(0x5c)), Features(u32(0x60)), Features(u32(0x64))
	copy(sb.UUID[:], b[0x68:])
	sb.Label, sb.LastMounted = text(b[0x78:0x88]), text(b[0x88:0xc8])
	copy(sb.JournalUUID[:], b[0xd0:])
	sb.JournalInode, sb.JournalDevice, sb.LastOrphan = Ino(u32(0xe0)), u32(0xe4), Ino(u32(0xe8))
	sb.FirstMetaBG = u32(0x104)
	if sb.Incompat&Incompat64Bit != 0 {
		sb.DescSize = int(u16(0xfe))
		sb.Blocks |= uint64(u32(0x150)) << 32
		sb.FreeBlocks |= uint64(u32(0x158)) << 32
	}
	if sb.ROCompat&ROCompatBigalloc != 0 {
		sb.ClusterSize = shifted(u32(0x1c))
	}
	sb.BackupGroups = [2]uint32{u32(0x24c), u32(0x250)}
	sb.Encoding = u16(0x27c)
	sb.Seed = CRC32C(fresh, sb.UUID[:])
	if sb.Incompat&IncompatCsumSeed != 0 {
		sb.Seed = u32(0x270)
	}
	return sb
}

// shifted is a size that the disk keeps as a power of 2 above 1 KiB, 0 if that
// power is beyond all reason.
func shifted(log uint32) int {
	if log > 20 {
		return 0
	}
	return 1024 << log
}

// text is a string in a field of fixed length.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}

// Validate checks what all arithmetic on the file system relies on.
func (sb *Superblock) Validate() error {
	bs := uint64(sb.BlockSize)
	switch {
	case bs < MinBlock || bs > MaxBlock:
		return corrupt("superblock: blocks of %d bytes", bs)
	case uint64(sb.ClusterSize) < bs || sb.ClusterSize > 1<<30:
		return corrupt("superblock: clusters of %d bytes, blocks of %d", sb.ClusterSize, bs)
	case sb.InodeSize < oldInodeSize || uint64(sb.InodeSize) > bs || sb.InodeSize&(sb.InodeSize-1) != 0:
		return corrupt("superblock: inodes of %d bytes", sb.InodeSize)
	case sb.DescSize < oldDescSize || uint64(sb.DescSize) > bs || sb.DescSize&(sb.DescSize-1) != 0 ||
		sb.Incompat&Incompat64Bit != 0 && sb.DescSize < 2*oldDescSize:
		return corrupt("superblock: group descriptors of %d bytes", sb.DescSize)
	case uint64(sb.FirstDataBlock) >= sb.Blocks:
		return corrupt("superblock: %d blocks, the first of which is %d", sb.Blocks, sb.FirstDataBlock)
	case sb.FirstDataBlock > 1 || sb.FirstDataBlock == 1 && bs != MinBlock:
		return corrupt("superblock: first data block %d, blocks of %d bytes", sb.FirstDataBlock, bs)
	case sb.Blocks > 1<<48 || sb.Blocks > (1<<63-1)/bs:
		return corrupt("superblock: %d blocks of %d bytes", sb.Blocks, bs)
	case sb.BlocksPerGroup == 0 || uint64(sb.BlocksPerGroup) > 8*bs*uint64(sb.ClusterSize)/bs:
		return corrupt("superblock: %d blocks a group", sb.BlocksPerGroup)
	case sb.InodesPerGroup == 0 || uint64(sb.InodesPerGroup) > 8*bs:
		return corrupt("superblock: %d inodes a group", sb.InodesPerGroup)
	case sb.Groups() > 1<<32-1 || uint64(sb.Inodes) > sb.Groups()*uint64(sb.InodesPerGroup):
		return corrupt("superblock: %d inodes in %d groups of %d", sb.Inodes, sb.Groups(), sb.InodesPerGroup)
	case sb.Inodes < uint32(sb.FirstIno) || sb.FirstIno < oldFirstIno:
		return corrupt("superblock: %d inodes, the first of which is %d", sb.Inodes, sb.FirstIno)
	}
	return nil
}

// Size is how many bytes of the device the file system takes.
func (sb *Superblock) Size() int64 { return int64(sb.Blocks) * int64(sb.BlockSize) }

// Groups is how many block groups there are.
func (sb *Superblock) Groups() uint64 {
	n := sb.Blocks - uint64(sb.FirstDataBlock)
	return (n + uint64(sb.BlocksPerGroup) - 1) / uint64(sb.BlocksPerGroup)
}

// Version is what the file system is called: ext4 if it has features that
// ext3 lacks, ext3 if it has a journal, ext2 otherwise.
func (sb *Superblock) Version() string {
	const ext3Incompat = IncompatFiletype | IncompatRecover | IncompatMetaBG
	const ext3ROCompat = ROCompatSparseSuper | 0x2 | 0x4
	switch {
	case sb.Incompat&^ext3Incompat != 0 || sb.ROCompat&^ext3ROCompat != 0:
		return "ext4"
	case sb.Compat&CompatHasJournal != 0:
		return "ext3"
	}
	return "ext2"
}

// MetadataCsum reports whether structures carry checksums.
func (sb *Superblock) MetadataCsum() bool { return sb.ROCompat&ROCompatMetadataCsum != 0 }

// Filetype reports whether directory entries tell their file's type.
func (sb *Superblock) Filetype() bool { return sb.Incompat&IncompatFiletype != 0 }

// InodeSeed is where the checksums begin of what belongs to an inode.
func (sb *Superblock) InodeSeed(ino Ino, generation uint32) uint32 {
	return crcWord(crcWord(sb.Seed, uint32(ino)), generation)
}
