// Package export is what the servers of block devices have in common: the set
// of devices by name that package nbd gives to clients over a socket and
// package fuse shows as files. It knows block.Device and nothing of volumes.
package export

import "cowl/internal/block"

// Exports is a set of named devices. It may change at any time: a snapshot
// that is taken appears, a removed one vanishes, a grown one has a new size.
// Its methods are called in parallel, and not from within a device's methods.
type Exports interface {
	// List returns the exports in the order in which a person should see them.
	List() []Info

	// Open returns the content of one export and counts as one user of it
	// until Close. A name that is not there is errs.NotFound.
	//
	// All devices that were opened under one name are one device: what is
	// written through one is read through the others at once, and a Flush of
	// one makes durable what completed through any of them. Servers tell their
	// clients so.
	Open(name string) (block.Device, error)
}

// Info describes an export without opening it.
type Info struct {
	Name        string
	Description string // for people; may be empty
	Size        int64  // bytes
	ReadOnly    bool
}
