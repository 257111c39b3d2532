package ext4

import "hash/crc32"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CRC32C continues a CRC-32C over b. Unlike most users of that polynomial,
// ext4 and jbd2 invert the register neither at the start nor at the end.
func CRC32C(sum uint32, b []byte) uint32 {
	return ^crc32.Update(^sum, castagnoli, b)
}

// fresh is the register's value at the start of a sum.
const fresh = ^uint32(0)

// crcWord continues the sum over a little-endian number, as block, group and
// inode numbers are mixed in.
func crcWord(sum, v uint32) uint32 {
	for range 4 {
		sum = castagnoli[byte(sum^v)] ^ sum>>8
		v >>= 8
	}
	return sum
}

// crcZeroed continues the sum over b as if the field of n bytes at off were
// zero: a checksum does not cover itself.
func crcZeroed(sum uint32, b []byte, off, n int) uint32 {
	sum = CRC32C(sum, b[:off])
	sum = CRC32C(sum, zero4[:n])
	return CRC32C(sum, b[off+n:])
}

// zero4 is what crcZeroed sums; nobody may change it.
var zero4 [4]byte

// crc16 continues the CRC-16 (reflected, polynomial 0xA001) that group
// descriptors had before metadata_csum.
func crc16(sum uint16, b []byte) uint16 {
	for _, c := range b {
		sum ^= uint16(c)
		for range 8 {
			low := sum & 1
			sum >>= 1
			if low != 0 {
				sum ^= 0xa001
			}
		}
	}
	return sum
}

// bigEndianCRC is the table of the CRC-32 that is shifted left, which the
// journal's first kind of checksum uses. hash/crc32 has the reflected ones only.
var bigEndianCRC = func() (table [256]uint32) {
	for i := range table {
		v := uint32(i) << 24
		for range 8 {
			high := v & (1 << 31)
			v <<= 1
			if high != 0 {
				v ^= 0x04c11db7
			}
		}
		table[i] = v
	}
	return table
}()

// CRC32BE continues the CRC-32 of journals with JournalChecksumV1.
func CRC32BE(sum uint32, b []byte) uint32 {
	for _, c := range b {
		sum = sum<<8 ^ bigEndianCRC[byte(sum>>24)^c]
	}
	return sum
}
