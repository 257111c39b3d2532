package ext4

// Types of files in directory entries.
const (
	DirentUnknown = 0
	DirentFile    = 1
	DirentDir     = 2
	DirentChar    = 3
	DirentBlock   = 4
	DirentFIFO    = 5
	DirentSocket  = 6
	DirentSymlink = 7
	direntTail    = 0xde // a checksum in the dress of an entry
)

const (
	direntHeader  = 8
	direntMinimum = 12
	dirTailBytes  = 12
	// InlineDirHead is what inline directories have before their entries: the
	// number of the parent's inode.
	InlineDirHead = 4

	dxEntry     = 8
	dxTailBytes = 8
	dxNodeCount = 8  // where an inner node keeps its counts
	dxRootInfo  = 24 // behind the entries "." and ".."
	dxRootCount = 32
)

// Dirent is an entry of a directory. Ino is 0 in one that is not in use.
type Dirent struct {
	Ino  Ino
	Type uint8
	Name []byte // refers to the block
}

// TypeOf is the type of file that an entry's type stands for, 0 if that is
// not known.
func (d Dirent) TypeOf() Mode {
	types := [...]Mode{0, TypeFile, TypeDir, TypeChar, TypeBlock, TypeFIFO, TypeSocket, TypeSymlink}
	if int(d.Type) < len(types) {
		return types[d.Type]
	}
	return 0
}

// NextDirent decodes the entry at off of a directory block, or of the piece
// of one that lies in an inode, and returns where the next one begins. Blocks
// of hash trees look like blocks whose entries are not in use.
func (sb *Superblock) NextDirent(b []byte, off int) (d Dirent, next int, err error) {
	if off < 0 || len(b)-off < direntHeader {
		return d, 0, corrupt("directory entry at byte %d is cut off", off)
	}
	e := b[off:]
	length, name := sb.recLen(e), int(e[6])
	d = Dirent{Ino: Ino(le.Uint32(e)), Type: e[7]}
	switch {
	case length < direntMinimum || length%4 != 0 || length > len(e):
		return d, 0, corrupt("directory entry at byte %d has a length of %d, %d are left", off, length, len(e))
	case direntHeader+name > length:
		return d, 0, corrupt("directory entry at byte %d has a name of %d bytes in %d", off, name, length)
	case uint32(d.Ino) > sb.Inodes:
		return d, 0, corrupt("directory entry at byte %d has inode %d, the file system has %d", off, d.Ino, sb.Inodes)
	}
	if !sb.Filetype() {
		d.Type = DirentUnknown
	}
	d.Name = e[direntHeader : direntHeader+name]
	if d.Ino != 0 {
		err = checkName(d.Name, off)
	}
	return d, off + length, err
}

// recLen is the length of an entry. In blocks of 64 KiB one that takes all of
// it has a length that 16 bits do not hold.
func (sb *Superblock) recLen(e []byte) int {
	n := int(le.Uint16(e[4:]))
	if sb.BlockSize == MaxBlock && (n == 0 || n == 0xffff) {
		return MaxBlock
	}
	return n
}

// checkName refuses names that no file can have, because whoever joins them to
// a path would be led astray.
func checkName(name []byte, off int) error {
	for _, c := range name {
		if c == '/' || c == 0 {
			return corrupt("directory entry at byte %d has the name %q", off, name)
		}
	}
	if len(name) == 0 {
		return corrupt("directory entry at byte %d has no name", off)
	}
	return nil
}

// CheckDirBlock checks the checksum of a directory's block, where it has one:
// behind the entries, or in blocks of hash trees behind the tree's. first
// says that it is the directory's first block, index that the directory has
// trees.
func (sb *Superblock) CheckDirBlock(b []byte, seed uint32, index, first bool) error {
	if !sb.MetadataCsum() {
		return nil
	}
	if len(b) != sb.BlockSize {
		return corrupt("directory block of %d bytes", len(b))
	}
	if index {
		if at := sb.dxCount(b, first); at > 0 {
			return checkDX(b, at, seed)
		}
	}
	tail := b[len(b)-dirTailBytes:]
	if le.Uint32(tail) != 0 || le.Uint16(tail[4:]) != dirTailBytes || tail[6] != 0 || tail[7] != direntTail {
		return corrupt("directory block without a checksum")
	}
	if want, got := CRC32C(seed, b[:len(b)-dirTailBytes]), le.Uint32(tail[8:]); want != got {
		return corrupt("bad checksum of a directory block (want %#08x, got %#08x)", want, got)
	}
	return nil
}

// dxCount returns where a block of a hash tree has its counts, 0 if the block
// holds entries.
func (sb *Superblock) dxCount(b []byte, first bool) int {
	switch {
	case !first && le.Uint32(b) == 0 && sb.recLen(b) == sb.BlockSize && b[6] == 0:
		return dxNodeCount
	case first && sb.recLen(b) == direntMinimum && sb.recLen(b[direntMinimum:]) == sb.BlockSize-direntMinimum &&
		le.Uint32(b[dxRootInfo:]) == 0 && b[dxRootInfo+5] == dxRootCount-dxRootInfo:
		return dxRootCount
	}
	return 0
}

// checkDX checks a block of a hash tree whose counts are at the given byte.
func checkDX(b []byte, at int, seed uint32) error {
	limit, count := int(le.Uint16(b[at:])), int(le.Uint16(b[at+2:]))
	tail := at + limit*dxEntry
	if count > limit || tail > len(b)-dxTailBytes {
		return corrupt("directory index with %d of %d entries in %d bytes", count, limit, len(b))
	}
	want := CRC32C(seed, b[:at+count*dxEntry])
	want = CRC32C(want, b[tail:tail+4])
	want = CRC32C(want, zero4[:])
	if got := le.Uint32(b[tail+4:]); want != got {
		return corrupt("bad checksum of a directory index (want %#08x, got %#08x)", want, got)
	}
	return nil
}
