package fsread

import "cowl/internal/format/ext4"

// InoSet is a set of inode numbers. They come in flocks, so that one takes
// little more than a bit.
type InoSet map[uint32]*[8]uint64

// Add puts a number into the set.
func (s InoSet) Add(ino ext4.Ino) {
	bits := s[uint32(ino)/512]
	if bits == nil {
		bits = new([8]uint64)
		s[uint32(ino)/512] = bits
	}
	bits[ino/64%8] |= 1 << (ino % 64)
}

// Has tells whether a number is in the set.
func (s InoSet) Has(ino ext4.Ino) bool {
	bits := s[uint32(ino)/512]
	return bits != nil && bits[ino/64%8]&(1<<(ino%64)) != 0
}
