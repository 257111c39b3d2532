// Package thin reads the metadata of the Linux kernel's thin pools, as dm-thin
// writes it on a pool's metadata device: which blocks of the pool's data device
// each thin volume shows, and in what two volumes differ. It writes nothing.
//
// The metadata of a pool that is in use changes under a reader. The kernel keeps
// one state of it on request (its reserve_metadata_snap message): see OpenHeld.
//
// Every byte may be anything. Checksums, block numbers, counts, bounds and the
// order of keys are checked before they are believed, and what cannot be is
// errs.Corrupt. docs/format/thin.md has the tables.
package thin

import (
	"encoding/binary"
	"hash/crc32"

	"cowl/internal/errs"
)

const (
	// BlockSize is the size of a block of metadata, bytes. The kernel has no other.
	BlockSize = 4096
	// Magic stands in a superblock.
	Magic uint64 = 27022010

	// What checksums are combined with, so that a block of one kind is none of
	// another.
	superblockSalt uint32 = 160774
	nodeSalt       uint32 = 121107

	needsCheckFlag = 1 << 0
	sectorBytes    = 512

	// MinBlock and MaxBlock bound a pool's data blocks, bytes; they are whole
	// multiples of MinBlock.
	MinBlock = 64 << 10
	MaxBlock = 1 << 30
)

var le = binary.LittleEndian

// corrupt is an error about bytes that cannot be what they claim to be.
func corrupt(format string, args ...any) error {
	return errs.E(errs.Corrupt, "thin pool metadata: "+format, args...)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is CRC-32C without its last inversion, of all but the checksum itself.
func checksum(block []byte, salt uint32) uint32 {
	return ^crc32.Checksum(block[4:BlockSize], castagnoli) ^ salt
}

// Superblock is a pool's superblock, or the copy of it that a reserved state
// begins with.
type Superblock struct {
	NeedsCheck  bool // the kernel found the metadata damaged and changes it no more
	UUID        [16]byte
	Version     uint32
	Time        uint32 // goes up by one with each snapshot
	Transaction uint64 // of who manages the pool
	Held        uint64 // the block of the reserved state's superblock, 0 if there is none
	DataBlocks  uint64 // of the pool; 0 in a reserved state, which does not say
	Mappings    uint64 // root of the tree from device to the root of its mappings
	Details     uint64 // root of the tree from device to its details
	BlockBytes  int64  // of a data block
}

// DecodeSuperblock decodes the superblock that was read from block at.
func DecodeSuperblock(b []byte, at uint64) (*Superblock, error) {
	if len(b) < BlockSize {
		return nil, corrupt("superblock of %d bytes", len(b))
	}
	if magic := le.Uint64(b[32:]); magic != Magic {
		return nil, corrupt("superblock at block %d has magic %d, want %d", at, magic, Magic)
	}
	if got, want := checksum(b, superblockSalt), le.Uint32(b); got != want {
		return nil, corrupt("superblock at block %d has checksum %#08x, its content %#08x", at, want, got)
	}
	if n := le.Uint64(b[8:]); n != at {
		return nil, corrupt("superblock at block %d says that it is of block %d", at, n)
	}
	s := &Superblock{
		NeedsCheck: le.Uint32(b[4:])&needsCheckFlag != 0, UUID: [16]byte(b[16:32]),
		Version: le.Uint32(b[40:]), Time: le.Uint32(b[44:]), Transaction: le.Uint64(b[48:]), Held: le.Uint64(b[56:]),
		DataBlocks: le.Uint64(b[64:]), Mappings: le.Uint64(b[320:]), Details: le.Uint64(b[328:]),
		BlockBytes: int64(le.Uint32(b[336:])) * sectorBytes,
	}
	switch incompatible := le.Uint32(b[360:]); {
	case s.Version < 1 || s.Version > 2:
		return nil, errs.E(errs.Unsupported, "thin pool metadata: version %d, known are 1 and 2", s.Version)
	case incompatible != 0:
		return nil, errs.E(errs.Unsupported, "thin pool metadata: unknown features %#x", incompatible)
	case le.Uint32(b[340:]) != BlockSize/sectorBytes:
		return nil, corrupt("blocks of %d sectors", le.Uint32(b[340:]))
	case s.BlockBytes < MinBlock || s.BlockBytes > MaxBlock || s.BlockBytes%MinBlock != 0:
		return nil, corrupt("data blocks of %d bytes", s.BlockBytes)
	}
	return s, nil
}
