// Package dmsnap is the codec of the Linux kernel's persistent snapshot
// exception store, as dm-snap-persistent writes it on a COW device: a header,
// areas of exceptions, and the arithmetic of where they lie. It does no I/O.
//
// The store's unit is the chunk. Chunk 0 holds the header; then come areas,
// each one metadata chunk with room for PerArea exceptions followed by that
// many data chunks. docs/format/snapshot.md has the tables.
package dmsnap

import (
	"encoding/binary"
	"math/bits"

	"cowl/internal/errs"
)

const (
	// Magic stands in the header's first four bytes: "SnAp".
	Magic uint32 = 0x70416e53
	// Version is the only version of the format.
	Version uint32 = 1
	// HeaderSize is how much of chunk 0 carries meaning, bytes: one sector, so
	// that a header is never torn.
	HeaderSize = 512
	// EntrySize is an exception's size on disk, bytes.
	EntrySize = 16
	// FirstData is the first chunk that can hold data.
	FirstData uint64 = 2

	// MinChunk and MaxChunk bound a chunk's size in bytes. The kernel takes a
	// single sector; lvcreate allows 4 KiB to 512 KiB. The upper bound keeps an
	// area's image, which is one chunk, in reasonable memory.
	MinChunk = 512
	MaxChunk = 16 << 20
)

// Header is chunk 0 of a store.
type Header struct {
	Valid      bool  // false once the snapshot overflowed
	ChunkBytes int64 // a power of 2
}

// DecodeHeader decodes the first HeaderSize bytes of a COW device. A device
// whose magic is zero is a store that was never used: new is true and the
// header empty (the kernel then writes a fresh one). Any other magic, another
// version or an impossible chunk size is errs.Corrupt.
func DecodeHeader(b []byte) (h Header, isNew bool, err error) {
	if len(b) < HeaderSize {
		return Header{}, false, errs.E(errs.Corrupt, "exception store header: %d bytes, want %d", len(b), HeaderSize)
	}
	switch magic := binary.LittleEndian.Uint32(b); magic {
	case 0:
		return Header{}, true, nil
	case Magic:
	default:
		return Header{}, false, errs.E(errs.Corrupt, "exception store header: magic %#08x, want %#08x", magic, Magic)
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != Version {
		return Header{}, false, errs.E(errs.Corrupt, "exception store header: version %d, want %d", v, Version)
	}
	h.Valid = binary.LittleEndian.Uint32(b[4:]) != 0
	h.ChunkBytes = int64(binary.LittleEndian.Uint32(b[12:])) * 512
	return h, false, CheckChunk(h.ChunkBytes)
}

// Encode returns the header as a sector, the rest of it zero.
func (h Header) Encode() []byte {
	b := make([]byte, HeaderSize)
	binary.LittleEndian.PutUint32(b, Magic)
	if h.Valid {
		binary.LittleEndian.PutUint32(b[4:], 1)
	}
	binary.LittleEndian.PutUint32(b[8:], Version)
	binary.LittleEndian.PutUint32(b[12:], uint32(h.ChunkBytes/512))
	return b
}

// CheckChunk returns errs.Corrupt unless n bytes can be a chunk.
func CheckChunk(n int64) error {
	if n < MinChunk || n > MaxChunk || bits.OnesCount64(uint64(n)) != 1 {
		return errs.E(errs.Corrupt, "exception store: chunk size of %d bytes is not a power of 2 from %d to %d", n, MinChunk, MaxChunk)
	}
	return nil
}

// Exception says that the origin's chunk Old is kept in the COW device's
// chunk New.
type Exception struct{ Old, New uint64 }

// Entry decodes entry i of an area. New is 0 behind the last exception.
func Entry(area []byte, i int) Exception {
	b := area[i*EntrySize:]
	return Exception{Old: binary.LittleEndian.Uint64(b), New: binary.LittleEndian.Uint64(b[8:])}
}

// PutEntry encodes e as entry i of an area; the zero Exception clears it.
func PutEntry(area []byte, i int, e Exception) {
	b := area[i*EntrySize:]
	binary.LittleEndian.PutUint64(b, e.Old)
	binary.LittleEndian.PutUint64(b[8:], e.New)
}

// Used returns how many entries of an area stand before its terminator.
func Used(area []byte) int {
	n := len(area) / EntrySize
	for i := range n {
		if Entry(area, i).New == 0 {
			return i
		}
	}
	return n
}

// Layout is where things lie on a store with chunks of the given size.
type Layout struct{ ChunkBytes int64 }

// PerArea returns how many exceptions an area holds.
func (l Layout) PerArea() int { return int(l.ChunkBytes / EntrySize) }

func (l Layout) stride() uint64 { return uint64(l.PerArea()) + 1 }

// AreaChunk returns the chunk that holds the metadata of area k.
func (l Layout) AreaChunk(k uint64) uint64 { return 1 + k*l.stride() }

// AreasBelow returns how many areas' metadata lies below a chunk.
func (l Layout) AreasBelow(chunk uint64) uint64 {
	if chunk < 2 {
		return 0
	}
	return (chunk-2)/l.stride() + 1
}

// IsData reports whether a chunk is neither header nor metadata.
func (l Layout) IsData(chunk uint64) bool { return chunk >= FirstData && chunk%l.stride() != 1 }

// SkipMetadata returns chunk, or the one behind it if chunk is an area's metadata.
func (l Layout) SkipMetadata(chunk uint64) uint64 {
	if chunk%l.stride() == 1 {
		return chunk + 1
	}
	return chunk
}

// DataIndex returns how many chunks that can hold data lie before chunk.
func (l Layout) DataIndex(chunk uint64) uint64 {
	if chunk < FirstData {
		return 0
	}
	area, pos := (chunk-1)/l.stride(), (chunk-1)%l.stride()
	return area*uint64(l.PerArea()) + max(pos, 1) - 1
}

// DataChunk returns the chunk before which i chunks can hold data: the i-th,
// counted from 0, that can.
func (l Layout) DataChunk(i uint64) uint64 {
	per := uint64(l.PerArea())
	return i/per*l.stride() + FirstData + i%per
}

// Off returns the byte at which a chunk begins.
func (l Layout) Off(chunk uint64) int64 { return int64(chunk) * l.ChunkBytes }

// Chunks returns how many whole chunks a device of size bytes has.
func (l Layout) Chunks(size int64) uint64 { return uint64(size / l.ChunkBytes) }
