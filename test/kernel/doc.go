// Package kernel holds the tests in which a real Linux kernel judges cowl:
// what one of the two wrote, the other reads, goes on with and merges, and
// both do the same with the same operations. It has no code outside its tests.
//
// The lower half works on COW stores through package snap and dmsetup, the
// upper half on volume groups through the cowl program and lvm2.
package kernel
