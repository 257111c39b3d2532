package ext4

// Group is a block group's descriptor.
type Group struct {
	BlockBitmap, InodeBitmap, InodeTable uint64 // blocks
	UnusedInodes                         uint32 // at the end of the table, never initialised
	Flags                                uint16
}

// GroupInodesUninit says that no inode of the group was ever used.
const GroupInodesUninit = 0x1

const offGroupSum = 0x1e

// Location returns the block, and the byte in it, of group g's descriptor.
func (sb *Superblock) Location(g uint32) (block uint64, off int) {
	per := uint32(sb.BlockSize / sb.DescSize)
	n := uint64(g / per)
	off = int(g%per) * sb.DescSize
	if sb.Incompat&IncompatMetaBG == 0 || n < uint64(sb.FirstMetaBG) {
		return SuperblockOffset/uint64(sb.BlockSize) + 1 + n, off
	}
	// With meta_bg the descriptors of each run of groups stand at the beginning
	// of the run, behind the copy of the superblock if there is one.
	first := uint32(n) * per
	block = uint64(sb.FirstDataBlock) + uint64(first)*uint64(sb.BlocksPerGroup)
	if sb.HasSuper(first) {
		block++
	}
	if first == 0 && sb.BlockSize == MinBlock && sb.FirstDataBlock == 0 {
		block++ // the superblock is in block 1, behind the boot block
	}
	return block, off
}

// HasSuper tells whether a group begins with a copy of the superblock.
func (sb *Superblock) HasSuper(g uint32) bool {
	switch {
	case g == 0:
		return true
	case sb.Compat&CompatSparseSuper2 != 0:
		return g == sb.BackupGroups[0] || g == sb.BackupGroups[1]
	case g == 1 || sb.ROCompat&ROCompatSparseSuper == 0:
		return true
	}
	return isPower(g, 3) || isPower(g, 5) || isPower(g, 7)
}

func isPower(n, base uint32) bool {
	for n%base == 0 {
		n /= base
	}
	return n == 1
}

// DecodeGroup decodes the descriptor of group g, DescSize bytes, and checks
// its checksum if it has one.
func (sb *Superblock) DecodeGroup(g uint32, b []byte) (*Group, error) {
	if len(b) != sb.DescSize {
		return nil, corrupt("group %d: descriptor of %d bytes, want %d", g, len(b), sb.DescSize)
	}
	if want, got := sb.groupSum(g, b), le.Uint16(b[offGroupSum:]); sb.hasGroupSum() && want != got {
		return nil, corrupt("group %d: bad checksum of its descriptor (want %#04x, got %#04x)", g, want, got)
	}
	d := &Group{
		BlockBitmap: uint64(le.Uint32(b)), InodeBitmap: uint64(le.Uint32(b[4:])), InodeTable: uint64(le.Uint32(b[8:])),
		Flags: le.Uint16(b[0x12:]), UnusedInodes: uint32(le.Uint16(b[0x1c:])),
	}
	if sb.Incompat&Incompat64Bit != 0 {
		d.BlockBitmap |= uint64(le.Uint32(b[0x20:])) << 32
		d.InodeBitmap |= uint64(le.Uint32(b[0x24:])) << 32
		d.InodeTable |= uint64(le.Uint32(b[0x28:])) << 32
		d.UnusedInodes |= uint32(le.Uint16(b[0x32:])) << 16
	}
	size := (uint64(sb.InodesPerGroup)*uint64(sb.InodeSize) + uint64(sb.BlockSize) - 1) / uint64(sb.BlockSize)
	if d.InodeTable <= uint64(sb.FirstDataBlock) || d.InodeTable >= sb.Blocks || size > sb.Blocks-d.InodeTable {
		return nil, corrupt("group %d: inode table of %d blocks at block %d, the file system has %d", g, size, d.InodeTable, sb.Blocks)
	}
	return d, nil
}

func (sb *Superblock) hasGroupSum() bool {
	return sb.ROCompat&(ROCompatMetadataCsum|ROCompatGDTCsum) != 0
}

// groupSum is what the descriptor's checksum should be. gdt_csum sums the long
// form of a descriptor only where blocks have 64-bit numbers.
func (sb *Superblock) groupSum(g uint32, b []byte) uint16 {
	if sb.MetadataCsum() {
		return uint16(crcZeroed(crcWord(sb.Seed, g), b, offGroupSum, 2))
	}
	sum := crc16(^uint16(0), sb.UUID[:])
	sum = crc16(sum, le.AppendUint32(nil, g))
	sum = crc16(sum, b[:offGroupSum])
	if sb.Incompat&Incompat64Bit != 0 {
		sum = crc16(sum, b[offGroupSum+2:])
	}
	return sum
}
