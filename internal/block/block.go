// Package block holds Device, the spine of cowl: everything that stores bytes
// (files, disks, memory, volumes, snapshots) is one, and everything that
// stacks, exports or backs up takes one.
//
// The package knows nothing of LVM. Its subpackages are the small family:
// file, mem and linear store or map, filter wraps, blocktest is the
// conformance suite that every Device passes.
package block

import (
	"io"
	"iter"

	"cowl/internal/errs"
)

// SectorSize is the unit of LVM2 metadata and of device-mapper tables, in bytes.
const SectorSize = 512

// Device is an array of Size bytes behind a volatile write cache.
//
// Concurrency: all methods but Close may be called in parallel. Two calls
// that overlap in time and range, one of them a write, leave each byte with
// the old or the new value in an unspecified order.
//
// Buffers belong to the caller again when the call returns.
//
// Durability: only what completed before the start of a Flush that returned
// nil is durable. Until then any subset of the written 512-byte sectors may
// survive a power cut; a sector itself is never torn.
//
// Ranges: an offset or length that is negative or ends past Size gives an
// error of kind errs.Usage (OutOfRange), and nothing is done; ReadAt never
// returns a short count without an error. Any offset and length is allowed;
// alignment to Caps.BlockSize is faster, and required by no implementation.
//
// After an error from WriteAt, Discard or WriteZeroes the range's content is
// unspecified (each sector old or new). After an error from Flush nothing
// since the last successful Flush may be assumed durable.
type Device interface {
	io.ReaderAt
	io.WriterAt

	// Flush makes durable what completed before it was called.
	Flush() error

	// Discard says that the range's content is no longer needed. It is
	// advice: afterwards the range reads as the old bytes, zeroes, or a
	// mixture.
	Discard(off, length int64) error

	// WriteZeroes makes the range read as zeroes, as a hole where the device
	// can make one cheaply.
	WriteZeroes(off, length int64) error

	// Extents walks the range in order and yields extents that cover it
	// without gap or overlap, clipped to it. After an error it yields nothing more.
	// Saying Data for what reads as zeroes is allowed; the converse is not.
	Extents(off, length int64) iter.Seq2[Extent, error]

	// Size returns the size in bytes. It changes only when a volume is
	// extended, and never shrinks.
	Size() int64

	// Caps returns what the device can do. It does not change, but for Waits.
	Caps() Caps

	// Close releases the device. Calls in flight must have returned. Close
	// does not flush.
	Close() error
}

// Caps are a device's abilities, as data.
type Caps struct {
	ReadOnly  bool // every write fails with errs.Conflict
	Discard   bool // Discard frees space
	Zeroes    bool // WriteZeroes is cheaper than writing them
	BlockSize int  // logical block size, bytes, a power of 2, at least 512

	// Waits: a write may wait for what only a person brings, such as space.
	// Who serves others shall not let them wait for it.
	Waits bool
}

// ExtentKind says what is known of an extent without reading it.
type ExtentKind uint8

// The kinds of extents.
const (
	Data ExtentKind = iota // allocated, any content
	Zero                   // allocated, reads as zeroes
	Hole                   // not allocated, reads as zeroes
)

// Extent is a range of a device with one kind.
type Extent struct {
	Off, Len int64 // bytes
	Kind     ExtentKind
	// Depth tells which layer holds the bytes, as in qemu-img map: 0 the
	// device itself, 1 what it is stacked on, and so on.
	Depth int
}

// End returns the first byte after the extent.
func (e Extent) End() int64 { return e.Off + e.Len }

// CheckRange returns an error of kind errs.Usage if [off, off+length) does
// not lie within a device of the given size. All in bytes.
func CheckRange(off, length, size int64) error {
	if off < 0 || length < 0 || off > size || length > size-off {
		return errs.E(errs.Usage, "range of %d bytes at offset %d is outside the device's %d bytes", length, off, size)
	}
	return nil
}

// ErrReadOnly is what a write to a device with Caps.ReadOnly returns.
var ErrReadOnly = errs.E(errs.Conflict, "device is read-only")
