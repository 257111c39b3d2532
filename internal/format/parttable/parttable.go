// Package parttable reads partition tables: MBR with its chain of logical
// partitions, and GPT. It finds the physical volumes inside the image of a
// whole disk; it never writes.
//
// Numbers are Linux's: slots 1 to 4 of an MBR, logical partitions from 5 in the
// chain's order, and the entry's place in a GPT. The container of the logical
// partitions is not in the list, for it holds nothing else. Partitions may
// overlap, as they do in hybrid ISO images; what follows from that is the
// caller's to judge.
//
// Sectors of an MBR are taken as 512 bytes. Those of a GPT may also have 4096,
// which shows in where its header is.
//
// Every field may lie: each is checked before it is used, and the number of
// reads is bounded whatever the disk says.
package parttable

import (
	"fmt"
	"io"

	"cowl/internal/errs"
)

// Partition is one partition of a disk.
type Partition struct {
	Number     int   // as in /dev/sda5
	Start, Len int64 // bytes; within the disk, Len at least one sector

	// Type is two hexadecimal digits in an MBR ("8e" is LVM), a lower-case
	// GUID in a GPT ("e6d6d379-f507-44c2-a23c-238f2a3df928").
	Type string
}

const sectorSize = 512 // bytes, of an MBR

// Read reads the partition table of a disk of size bytes. Without one, the
// error is errs.NotFound; a table may also be empty. For a damaged one the
// error is errs.Corrupt, and what can be made out of it is returned as well.
// An error of the reader is passed on.
func Read(r io.ReaderAt, size int64) ([]Partition, error) {
	t := &table{r: r, size: size}
	if size < sectorSize {
		return nil, errs.E(errs.NotFound, "no partition table: the disk has only %d bytes", size)
	}
	first, err := t.bootSector(0)
	if err != nil {
		return nil, err
	}
	if !first.isMBR() {
		return nil, errs.E(errs.NotFound, "no partition table")
	}
	if first.isProtective() {
		err = t.readGPT()
	} else {
		err = t.readMBR(first)
	}
	if err == nil {
		err = t.damage
	}
	return t.parts, err
}

// table is a table while it is being read.
type table struct {
	r    io.ReaderAt
	size int64 // of the disk, bytes

	parts  []Partition
	damage error // the first lie found, errs.Corrupt
}

// read returns n bytes at off, which must be within the disk.
func (t *table) read(off, n int64) ([]byte, error) {
	b := make([]byte, n)
	if got, err := t.r.ReadAt(b, off); got < len(b) {
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read partition table at byte %d: %w", off, err)
	}
	return b, nil
}

// damaged notes a lie; the first is reported.
func (t *table) damaged(format string, args ...any) {
	if t.damage == nil {
		t.damage = errs.E(errs.Corrupt, "partition table: "+format, args...)
	}
}

// add adds the partition of count sectors from start, unless it is not within
// the disk.
func (t *table) add(number int, start, count uint64, sector int64, kind string) {
	sectors := uint64(t.size / sector)
	if count == 0 || start > sectors || count > sectors-start {
		t.damaged("partition %d has %d sectors from sector %d, the disk has %d", number, count, start, sectors)
		return
	}
	t.parts = append(t.parts, Partition{
		Number: number,
		Start:  int64(start) * sector,
		Len:    int64(count) * sector,
		Type:   kind,
	})
}
