// Package export is what the servers of block devices have in common: the set
// of devices by name that package nbd gives to clients over a socket and
// package fuse shows as files. It knows block.Device and nothing of volumes.
package export

import (
	"iter"

	"cowl/internal/block"
)

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
	Bitmaps     []Bitmap
}

// Bitmap marks bytes of an export, for clients that want only those.
type Bitmap struct {
	Name string // NBD calls it qemu:dirty-bitmap:NAME, as qemu's are called

	// Runs walks a range in order and yields runs that cover it without gap or
	// overlap, clipped to it. After an error it yields nothing more. It is called
	// in parallel, and may take its time for each run.
	Runs func(off, length int64) iter.Seq2[Run, error]
}

// Run is a range of an export, in bytes, all of it marked or none of it. What is
// marked for want of knowledge does no harm; the converse does.
type Run struct {
	Off, Len int64
	Marked   bool
}
