// Package ext4 decodes the on-disk structures of ext2, ext3 and ext4: the
// superblock, group descriptors, inodes, extent and directory blocks, extended
// attributes, ACLs, and the journal (jbd2). It decodes only, does no I/O, and
// knows nothing of how the structures hang together: that is package fsread.
// docs/format/ext4.md has the tables.
//
// Every decoder takes bytes that may be anything. It checks lengths, counts
// and checksums before it believes them, and returns errs.Corrupt for what
// cannot be, errs.Unsupported for what cowl does not read. Decoded values hold
// no references to the bytes unless they say so.
//
// The file system is little-endian, its journal big-endian. Block numbers are
// of file-system blocks unless their name says otherwise.
package ext4

import (
	"encoding/binary"

	"cowl/internal/errs"
)

var le = binary.LittleEndian

// corrupt is an error about bytes that cannot be what they claim to be.
func corrupt(format string, args ...any) error { return errs.E(errs.Corrupt, format, args...) }

// join puts the halves of a number together that the disk keeps apart.
func join(hi, lo uint32) uint64 { return uint64(hi)<<32 | uint64(lo) }
