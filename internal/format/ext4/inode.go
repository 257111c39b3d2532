package ext4

import (
	"time"

	"cowl/internal/errs"
)

// Mode is an inode's type and permissions, as in stat(2).
type Mode uint16

// Types of files.
const (
	TypeMask    Mode = 0xf000
	TypeFIFO    Mode = 0x1000
	TypeChar    Mode = 0x2000
	TypeDir     Mode = 0x4000
	TypeBlock   Mode = 0x6000
	TypeFile    Mode = 0x8000
	TypeSymlink Mode = 0xa000
	TypeSocket  Mode = 0xc000
)

// Type returns the type's bits.
func (m Mode) Type() Mode { return m & TypeMask }

// Perm returns the permissions, setuid, setgid and sticky bits included.
func (m Mode) Perm() uint32 { return uint32(m &^ TypeMask) }

// InodeFlags are an inode's flags, those that chattr sets among them.
type InodeFlags uint32

// The flags that say how an inode is to be read.
const (
	FlagEncrypt  InodeFlags = 0x800
	FlagIndex    InodeFlags = 0x1000 // a directory with hash trees
	FlagHugeFile InodeFlags = 0x40000
	FlagExtents  InodeFlags = 0x80000
	FlagVerity   InodeFlags = 0x100000
	FlagEAInode  InodeFlags = 0x200000 // holds an extended attribute's value
	FlagInline   InodeFlags = 0x10000000
	FlagCasefold InodeFlags = 0x40000000
)

// BlockBytes is the size of Inode.Block.
const BlockBytes = 60

// Inode is a decoded inode.
type Inode struct {
	Ino        Ino
	Mode       Mode
	Links      uint16
	UID, GID   uint32
	Project    uint32
	Size       int64  // bytes
	Sectors    uint64 // what it takes on the device, in units of 512 bytes; see Blocks
	Flags      InodeFlags
	Generation uint32
	AttrBlock  uint64 // the block with its extended attributes, 0 if none

	Atime, Mtime, Ctime time.Time
	Crtime              time.Time // when it was made; zero in inodes too small to say
	Deleted             uint32    // when, in seconds

	// Block is what the type makes of it: block numbers, the root of the extent
	// tree, a device number, a short symlink's target, or the beginning of the
	// content.
	Block [BlockBytes]byte
	// Attrs is the part of the inode that holds extended attributes, a copy;
	// nil if there are none.
	Attrs []byte
	// Seed is where the checksums of the inode's own blocks begin.
	Seed uint32
}

const (
	offSumLo   = 0x7c
	offSumHi   = 0x82
	offExtra   = 0x80
	offCtimeX  = 0x84
	offMtimeX  = 0x88
	offAtimeX  = 0x8c
	offCrtime  = 0x90
	offCrtimeX = 0x94
	offProject = 0x9c
	usualExtra = 32 // the size of the fields behind the first 128 bytes
)

// DecodeInode decodes inode ino from its InodeSize bytes and checks its
// checksum. An inode that is not in use is errs.Corrupt: who asks for one
// was sent there by something that is wrong.
func (sb *Superblock) DecodeInode(ino Ino, b []byte) (*Inode, error) {
	if len(b) != sb.InodeSize {
		return nil, errs.E(errs.Usage, "inode %d: got %d bytes, want %d", ino, len(b), sb.InodeSize)
	}
	n := &Inode{Ino: ino, Generation: le.Uint32(b[0x64:])}
	extra := 0
	if len(b) > oldInodeSize {
		extra = int(le.Uint16(b[offExtra:]))
		if extra > len(b)-oldInodeSize || extra%4 != 0 {
			return nil, corrupt("inode %d: %d bytes of additional fields in an inode of %d bytes", ino, extra, len(b))
		}
	}
	if sb.MetadataCsum() {
		n.Seed = sb.InodeSeed(ino, n.Generation)
		if err := n.checkSum(b, extra); err != nil {
			return nil, err
		}
	}
	if le.Uint16(b) == 0 && le.Uint16(b[0x1a:]) == 0 {
		return nil, corrupt("inode %d is not in use", ino)
	}
	n.decode(sb, b)
	n.decodeExtra(sb, b, extra)
	return n, n.validate(sb)
}

// checkSum compares the inode's checksum. Its upper half is there only where
// the additional fields reach that far.
func (n *Inode) checkSum(b []byte, extra int) error {
	want := crcZeroed(n.Seed, b[:oldInodeSize], offSumLo, 2)
	got := uint32(le.Uint16(b[offSumLo:]))
	switch long := len(b) > oldInodeSize; {
	case long && oldInodeSize+extra >= offSumHi+2:
		want = crcZeroed(want, b[oldInodeSize:], offSumHi-oldInodeSize, 2)
		got |= uint32(le.Uint16(b[offSumHi:])) << 16
	case long:
		want = CRC32C(want, b[oldInodeSize:]) & 0xffff
	default:
		want &= 0xffff
	}
	if want != got {
		return corrupt("inode %d: bad checksum (want %#08x, got %#08x)", n.Ino, want, got)
	}
	return nil
}

// decode fills in what all inodes have.
func (n *Inode) decode(sb *Superblock, b []byte) {
	u16 := func(off int) uint32 { return uint32(le.Uint16(b[off:])) }
	u32 := func(off int) uint32 { return le.Uint32(b[off:]) }
	n.Mode, n.Links, n.Flags = Mode(u16(0)), uint16(u16(0x1a)), InodeFlags(u32(0x20))
	n.UID, n.GID = u16(0x02)|u16(0x78)<<16, u16(0x18)|u16(0x7a)<<16
	n.Deleted = u32(0x14)
	copy(n.Block[:], b[0x28:])
	n.Size = int64(u32(0x04))
	if n.Mode.Type() == TypeFile || sb.Incompat&IncompatLargedir != 0 {
		n.Size = int64(join(u32(0x6c), u32(0x04)))
	}
	n.AttrBlock = uint64(u32(0x68))
	if sb.Incompat&Incompat64Bit != 0 {
		n.AttrBlock |= uint64(u16(0x76)) << 32
	}
	n.Sectors = uint64(u32(0x1c))
	if sb.ROCompat&ROCompatHugeFile != 0 {
		n.Sectors |= uint64(u16(0x74)) << 32
		if n.Flags&FlagHugeFile != 0 {
			n.Sectors *= uint64(sb.BlockSize / 512)
		}
	}
}

// decodeExtra fills in the fields behind the first 128 bytes, of which an
// inode has as many as the system knew that made it. One that says it has
// none has them all the same, unless it is too small; what it does not have
// then is attributes.
func (n *Inode) decodeExtra(sb *Superblock, b []byte, extra int) {
	if len(b) > oldInodeSize {
		if extra == 0 {
			extra = usualExtra
		} else if at := oldInodeSize + extra; len(b)-at > attrMagicSize && le.Uint32(b[at:]) == attrMagic {
			n.Attrs = append([]byte(nil), b[at:]...)
		}
	}
	field := func(off int) uint32 {
		if off+4 > oldInodeSize+extra {
			return 0
		}
		return le.Uint32(b[off:])
	}
	n.Atime = stamp(le.Uint32(b[0x08:]), field(offAtimeX))
	n.Ctime = stamp(le.Uint32(b[0x0c:]), field(offCtimeX))
	n.Mtime = stamp(le.Uint32(b[0x10:]), field(offMtimeX))
	if offCrtimeX+4 <= oldInodeSize+extra {
		n.Crtime = stamp(field(offCrtime), field(offCrtimeX))
	}
	if sb.ROCompat&ROCompatProject != 0 {
		n.Project = field(offProject)
	}
}

// stamp makes a time of the seconds, signed, and the word that extends them:
// two bits of higher seconds below the nanoseconds.
func stamp(seconds, more uint32) time.Time {
	return time.Unix(int64(int32(seconds))+int64(more&3)<<32, int64(more>>2))
}

// validate checks what reading the inode relies on.
func (n *Inode) validate(sb *Superblock) error {
	switch n.Mode.Type() {
	case TypeFIFO, TypeChar, TypeDir, TypeBlock, TypeFile, TypeSymlink, TypeSocket:
	default:
		return corrupt("inode %d: mode %#o is no type of file", n.Ino, n.Mode)
	}
	switch {
	case n.Size < 0 || uint64(n.Size) > sb.maxFile():
		return corrupt("inode %d: size of %d bytes", n.Ino, uint64(n.Size))
	case n.Flags&FlagExtents != 0 && n.Flags&FlagInline != 0:
		return corrupt("inode %d: has extents and inline data", n.Ino)
	case n.AttrBlock != 0 && (n.AttrBlock <= uint64(sb.FirstDataBlock) || n.AttrBlock >= sb.Blocks):
		return corrupt("inode %d: attributes in block %d, the file system has %d", n.Ino, n.AttrBlock, sb.Blocks)
	}
	return nil
}

// maxFile is the largest size of a file: blocks are numbered by 32 bits.
func (sb *Superblock) maxFile() uint64 { return uint64(sb.BlockSize) << 32 }

// Blocks is what stat(2) gives as st_blocks. Of files whose content is in the
// inode the kernel counts that, so that nobody takes them for holes.
func (n *Inode) Blocks() uint64 {
	if n.Flags&FlagInline != 0 && n.Mode.Type() == TypeFile {
		return n.Sectors + (uint64(n.Size)+511)/512
	}
	return n.Sectors
}

// Device returns the number of a device file, in one of two encodings.
func (n *Inode) Device() (major, minor uint32) {
	if old := le.Uint32(n.Block[:]); old != 0 {
		return old >> 8 & 0xff, old & 0xff
	}
	dev := le.Uint32(n.Block[4:])
	return dev >> 8 & 0xfff, dev&0xff | dev>>12&0xfff00
}
