// Package archive writes directory trees as tar archives, in POSIX pax format
// with GNU's form of sparse files: names as they are, owners by number, times
// to the nanosecond, hard links, devices, extended attributes, ACLs and holes.
// And it reads such archives, and those of others.
//
// Where the tree comes from is a Tree: a file system that package fsread reads
// (FileSystem), a directory of the running system (Dir, Linux), or an archive that
// was opened (Members of an Archive).
package archive
