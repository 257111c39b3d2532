package parttable_test

import (
	"encoding/binary"
	"hash/crc32"
	"io"
)

// disk is a disk's bytes, and writes tables of the test's choice into them.
type disk []byte

func newDisk(sectors int) disk { return make(disk, sectors*512) }

func (d disk) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(d)) {
		return 0, io.EOF
	}
	n := copy(p, d[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (d disk) sign(lba int) disk {
	d[lba*512+510], d[lba*512+511] = 0x55, 0xaa
	return d
}

// entry writes an entry into the boot sector at lba, and signs it.
func (d disk) entry(lba, slot int, kind byte, start, count uint32) disk {
	e := d[lba*512+446+16*slot:]
	e[4] = kind
	binary.LittleEndian.PutUint32(e[8:], start)
	binary.LittleEndian.PutUint32(e[12:], count)
	return d.sign(lba)
}

// The type GUID of LVM, as it is stored and as it is written.
const (
	lvmBytes = "\x79\xd3\xd6\xe6\x07\xf5\xc2\x44\xa2\x3c\x23\x8f\x2a\x3d\xf9\x28"
	lvmGUID  = "e6d6d379-f507-44c2-a23c-238f2a3df928"
)

// gpt is what a test wants in a GPT header; put fills in the checksums, so that
// lies pass for truth as far as they can.
type gpt struct {
	lba, entries     uint64
	count, entrySize uint32
	size, revision   uint32
	parts            [][2]uint64 // first and last sector
}

func standard(parts ...[2]uint64) gpt {
	return gpt{lba: 1, entries: 2, count: 128, entrySize: 128, size: 92, revision: 0x10000, parts: parts}
}

// put writes the table with its header at the sector at.
func (d disk) put(g gpt, at uint64, sector int) disk {
	le := binary.LittleEndian
	table := make([]byte, 128*128)
	for i, p := range g.parts {
		e := table[i*128:]
		if p[0]|p[1] == 0 {
			continue
		}
		copy(e, lvmBytes)
		le.PutUint64(e[32:], p[0])
		le.PutUint64(e[40:], p[1])
	}
	if off := g.entries * uint64(sector); off < uint64(len(d)) {
		copy(d[off:], table)
	}
	h := d[at*uint64(sector):][:sector]
	clear(h)
	copy(h, "EFI PART")
	le.PutUint32(h[8:], g.revision)
	le.PutUint32(h[12:], g.size)
	le.PutUint64(h[24:], g.lba)
	le.PutUint64(h[72:], g.entries)
	le.PutUint32(h[80:], g.count)
	le.PutUint32(h[84:], g.entrySize)
	if n := uint64(g.count) * uint64(g.entrySize); n <= uint64(len(table)) {
		le.PutUint32(h[88:], crc32.ChecksumIEEE(table[:n]))
	}
	if int(g.size) <= len(h) {
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:g.size]))
	}
	return d
}

func (d disk) protective() disk { return d.entry(0, 0, 0xee, 1, 0xffffffff) }
