// Package qcow2 writes qemu's image format, version 3, from front to back: the
// order in which a volume is read is the order in which its image grows. It
// reads nothing; package block/qcow2 does.
//
// Everything but the first cluster is a stream. The first, which holds the
// header, is known last: whoever writes the file puts it in its place at the
// end, so that a file that was not finished is no image.
//
// An image of 64 KiB clusters, offsets in the file:
//
//	0        header, alone in its cluster
//	64 KiB   clusters of data, in the volume's order: those as they are each
//	         on a cluster, compressed ones packed without gaps between them.
//	         A second-level table follows the 8192 clusters that it maps, a
//	         block of reference counts the 2 GiB of file that it counts.
//	then     the first-level table
//	end      the remaining blocks of counts, and the table of these
//
// So what is kept in memory is one second-level table, the first-level table (8
// bytes for each 512 MiB), the counts that are open, and packed clusters that
// have no place yet, 4 MiB at most. A cluster of zeroes has no entry, and
// takes no space.
//
// The fields and flags are those of the public specification that qemu keeps as
// docs/interop/qcow2.txt; docs/format/qcow2.md has those that are used here.
package qcow2
