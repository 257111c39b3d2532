// Package checksum holds the one checksum that LVM2 uses everywhere: in labels,
// metadata area headers and over metadata texts.
package checksum

import "hash/crc32"

// seed is the register that LVM2 begins with, where zlib's CRC-32 has all ones.
const seed = 0xf597a6cf

// LVM returns LVM2's checksum of b: the reflected CRC-32 of polynomial
// 0xEDB88320 from an initial value of LVM2's own, without the final inversion.
// hash/crc32 inverts on the way in and on the way out, so both are undone.
func LVM(b []byte) uint32 {
	return Continue(seed, b)
}

// Continue returns the checksum of a text whose first part has the checksum
// sum and whose second part is b, for text that wraps around a buffer's end.
func Continue(sum uint32, b []byte) uint32 {
	return ^crc32.Update(^sum, crc32.IEEETable, b)
}
