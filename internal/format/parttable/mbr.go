package parttable

import (
	"encoding/binary"
	"fmt"
)

// bootSector is a sector with four partition entries: the MBR, or an EBR, one
// for each logical partition.
//
//	446  4 x 16  entries
//	510  2       55 aa
type bootSector []byte

func (t *table) bootSector(lba int64) (bootSector, error) {
	b, err := t.read(lba*sectorSize, sectorSize)
	return bootSector(b), err
}

// entry is one of a boot sector's partitions.
//
//	0  1  0x80 if active, else 0
//	1  3  start as cylinder, head, sector: unused
//	4  1  type
//	5  3  end as cylinder, head, sector: unused
//	8  4  start, sectors
//	12 4  count, sectors; 0 for an unused entry
type entry struct {
	boot, kind   byte
	start, count uint32
}

const entries = 4

func (s bootSector) entry(i int) entry {
	e := s[446+16*i:]
	return entry{e[0], e[4], binary.LittleEndian.Uint32(e[8:]), binary.LittleEndian.Uint32(e[12:])}
}

func (s bootSector) hasSignature() bool { return s[510] == 0x55 && s[511] == 0xaa }

// isMBR tells a partition table from the boot sector of a file system, which
// has the same signature and code where the entries would be.
func (s bootSector) isMBR() bool {
	for i := range entries {
		if boot := s.entry(i).boot; boot != 0 && boot != 0x80 {
			return false
		}
	}
	return s.hasSignature()
}

// isProtective reports whether an MBR says that there is a GPT.
func (s bootSector) isProtective() bool {
	for i := range entries {
		if s.entry(i).kind == 0xee {
			return true
		}
	}
	return false
}

// isExtended reports whether an entry is a container of logical partitions, or
// in an EBR a link to the next.
func (e entry) isExtended() bool {
	return e.count != 0 && (e.kind == 0x05 || e.kind == 0x0f || e.kind == 0x85)
}

func (e entry) typeName() string { return fmt.Sprintf("%02x", e.kind) }

func (t *table) readMBR(mbr bootSector) error {
	for i := range entries {
		if e := mbr.entry(i); e.count != 0 && !e.isExtended() {
			t.add(i+1, uint64(e.start), uint64(e.count), sectorSize, e.typeName())
		}
	}
	number := entries + 1
	for i := range entries {
		if e := mbr.entry(i); e.isExtended() {
			var err error
			if number, err = t.readLogical(i+1, e, number); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxLinks bounds the chain of EBRs. Linux has no names for more partitions.
const maxLinks = 256

// readLogical walks the chain of EBRs of an extended partition. Each has the
// partitions that follow it, one as a rule, with sectors counted from the EBR
// itself, and a link to the next EBR, counted from the container's start. The
// number is that of the first partition; the next free one is returned.
func (t *table) readLogical(slot int, container entry, number int) (int, error) {
	first, end := int64(container.start), int64(container.start)+int64(container.count)
	if end > t.size/sectorSize || first == 0 {
		t.damaged("extended partition %d has %d sectors from sector %d, the disk has %d", slot, container.count, first, t.size/sectorSize)
		if end = min(end, t.size/sectorSize); first == 0 || first >= end {
			return number, nil
		}
	}
	seen := make(map[int64]bool)
	for at, length := first, end-first; ; {
		if seen[at] || len(seen) == maxLinks {
			t.damaged("the chain of logical partitions in partition %d does not end (back at sector %d)", slot, at)
			return number, nil
		}
		seen[at] = true
		ebr, err := t.bootSector(at)
		if err != nil {
			return number, err
		}
		if !ebr.hasSignature() {
			if at != first { // without any partition there need not be an EBR
				t.damaged("no table of a logical partition at sector %d", at)
			}
			return number, nil
		}
		number = t.addLogical(ebr, at, length, first, end, number)
		link, ok := ebr.link()
		if !ok {
			return number, nil
		}
		at, length = first+int64(link.start), int64(link.count)
		if at >= end {
			t.damaged("partition %d ends at sector %d, and a logical partition's table is at %d", slot, end, at)
			return number, nil
		}
	}
}

// link returns the entry that leads to the next EBR.
func (s bootSector) link() (entry, bool) {
	for i := range entries {
		if e := s.entry(i); e.isExtended() {
			return e, true
		}
	}
	return entry{}, false
}

// addLogical adds the partitions of an EBR at sector at that has length sectors
// of the container [first, end), and returns the next number.
func (t *table) addLogical(ebr bootSector, at, length, first, end int64, number int) int {
	for i := range entries {
		e := ebr.entry(i)
		if e.count == 0 || e.isExtended() {
			continue
		}
		from, to := at+int64(e.start), at+int64(e.start)+int64(e.count)
		inside := from >= first && to <= end
		if i >= 2 && (!inside || int64(e.start)+int64(e.count) > length) {
			continue // some programs leave garbage in the third and fourth
		}
		if !inside {
			t.damaged("logical partition %d has the sectors %d to %d, its container %d to %d", number, from, to-1, first, end-1)
		} else {
			t.add(number, uint64(from), uint64(e.count), sectorSize, e.typeName())
		}
		number++
	}
	return number
}
