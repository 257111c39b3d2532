// Package archive writes directory trees as tar archives, in POSIX pax format
// with GNU's form of sparse files: names as they are, owners by number, times
// to the nanosecond, hard links, devices, extended attributes, ACLs and holes.
//
// Where the tree comes from is a Tree: a file system that package fsread reads
// (FileSystem), or a directory of the running system (Dir, Linux).
package archive
