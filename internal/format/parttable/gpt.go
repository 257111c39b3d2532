package parttable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"cowl/internal/errs"
)

// header is a GPT header, at sector 1 and again at the disk's last sector.
//
//	0   8   "EFI PART"
//	8   4   revision, 0x00010000
//	12  4   size of the header, 92 or more, at most a sector
//	16  4   CRC-32 of the header, with zeroes here
//	20  4   zero
//	24  8   sector of this header
//	32  8   sector of the other header
//	40  8   first sector that partitions may use
//	48  8   last sector that partitions may use
//	56  16  the disk's GUID
//	72  8   sector of the entries
//	80  4   number of entries
//	84  4   size of an entry, 128 times a power of 2
//	88  4   CRC-32 of the entries
type header struct {
	entries   uint64 // sector
	count     uint32
	entrySize uint32
	crc       uint32
}

// The table of any disk seen is 16 KiB: 128 entries of 128 bytes.
const (
	maxEntryBytes  = 1 << 20
	minEntrySize   = 128
	minHeaderSize  = 92
	revisionMajor1 = 1
)

// errNoHeader is for a place where there is no header at all, and so nothing
// is known to be damaged.
var errNoHeader = errors.New("no GPT header")

// readGPT reads the primary table, and if that is damaged the backup, in
// sectors of either size. A disk that says it has a GPT and has none is
// corrupt.
func (t *table) readGPT() error {
	var damage error
	for _, place := range []func(sector int64) int64{
		func(int64) int64 { return 1 },
		func(sector int64) int64 { return t.size/sector - 1 },
	} {
		for _, sector := range []int64{512, 4096} {
			err := t.readGPTAt(place(sector), sector)
			switch {
			case err == nil:
				return nil
			case errors.Is(err, errNoHeader):
			case !errs.Is(err, errs.Corrupt):
				return err
			case damage == nil:
				damage = err
			}
		}
	}
	if damage == nil {
		damage = errs.E(errs.Corrupt, "partition table: the disk says it has a GPT, but neither the table nor its backup is there")
	}
	return damage
}

// readGPTAt reads the table whose header is at the sector lba.
func (t *table) readGPTAt(lba, sector int64) error {
	sectors := t.size / sector
	if lba < 1 || lba >= sectors {
		return errNoHeader
	}
	b, err := t.read(lba*sector, sector)
	if err != nil {
		return err
	}
	h, err := decodeHeader(b, uint64(lba))
	if err != nil {
		return err
	}
	// decodeHeader bounds the entries' length: no overflow.
	length := int64(h.count) * int64(h.entrySize)
	if h.entries > uint64(sectors) || length > (sectors-int64(h.entries))*sector {
		return errs.E(errs.Corrupt, "partition table: the GPT's entries are at sector %d, the disk has %d", h.entries, sectors)
	}
	table, err := t.read(int64(h.entries)*sector, length)
	if err != nil {
		return err
	}
	if got := crc32.ChecksumIEEE(table); got != h.crc {
		return errs.E(errs.Corrupt, "partition table: bad checksum of the GPT's entries at sector %d (want %#x, got %#x)", h.entries, h.crc, got)
	}
	for i := range int(h.count) {
		t.addEntry(i+1, table[i*int(h.entrySize):], sector)
	}
	return nil
}

// decodeHeader decodes the header in a sector, and checks what it says of
// itself.
func decodeHeader(b []byte, lba uint64) (*header, error) {
	if string(b[:8]) != "EFI PART" {
		return nil, errNoHeader
	}
	le := binary.LittleEndian
	corrupt := func(format string, args ...any) error {
		return errs.E(errs.Corrupt, "partition table: GPT header at sector %d: %w", lba, fmt.Errorf(format, args...))
	}
	size := le.Uint32(b[12:])
	if size < minHeaderSize || size > uint32(len(b)) {
		return nil, corrupt("size %d", size)
	}
	summed := append([]byte(nil), b[:size]...)
	clear(summed[16:20])
	if want, got := le.Uint32(b[16:]), crc32.ChecksumIEEE(summed); want != got {
		return nil, corrupt("bad checksum (want %#x, got %#x)", want, got)
	}
	if revision := le.Uint32(b[8:]); revision>>16 != revisionMajor1 {
		return nil, corrupt("unknown revision %#x", revision)
	}
	if own := le.Uint64(b[24:]); own != lba {
		return nil, corrupt("says that it is at sector %d", own)
	}
	h := &header{entries: le.Uint64(b[72:]), count: le.Uint32(b[80:]), entrySize: le.Uint32(b[84:]), crc: le.Uint32(b[88:])}
	powerOf2 := h.entrySize&(h.entrySize-1) == 0
	if h.entrySize < minEntrySize || !powerOf2 || uint64(h.count)*uint64(h.entrySize) > maxEntryBytes {
		return nil, corrupt("%d entries of %d bytes", h.count, h.entrySize)
	}
	return h, nil
}

// addEntry adds the partition of a GPT's entry.
//
//	0   16  type GUID; zero for an unused entry
//	16  16  the partition's GUID
//	32  8   first sector
//	40  8   last sector
//	48  8   attributes
//	56  72  name, UTF-16
func (t *table) addEntry(number int, e []byte, sector int64) {
	kind := guid(e[:16])
	if kind == guid(make([]byte, 16)) {
		return
	}
	first, last := binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
	if last < first {
		t.damaged("partition %d has the sectors %d to %d", number, first, last)
		return
	}
	t.add(number, first, last-first+1, sector, kind) // 2^64 sectors become 0, which add refuses
}

// guid formats a GUID as it is stored: three little-endian numbers, then bytes.
func guid(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}
