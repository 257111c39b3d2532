// Package readonly is a filter that refuses every change.
package readonly

import (
	"iter"

	"cowl/internal/block"
)

// Device is a device that cannot be written. What others write to the one
// below shows through.
type Device struct{ below block.Device }

// New returns a read-only view of a device. Closing it closes the device.
func New(below block.Device) *Device { return &Device{below} }

// ReadAt implements block.Device.
func (d *Device) ReadAt(p []byte, off int64) (int, error) { return d.below.ReadAt(p, off) }

// WriteAt implements block.Device.
func (d *Device) WriteAt([]byte, int64) (int, error) { return 0, block.ErrReadOnly }

// Flush implements block.Device. There is nothing to make durable here.
func (d *Device) Flush() error { return nil }

// Discard implements block.Device.
func (d *Device) Discard(int64, int64) error { return block.ErrReadOnly }

// WriteZeroes implements block.Device.
func (d *Device) WriteZeroes(int64, int64) error { return block.ErrReadOnly }

// Extents implements block.Device.
func (d *Device) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	return d.below.Extents(off, length)
}

// Size implements block.Device.
func (d *Device) Size() int64 { return d.below.Size() }

// Caps implements block.Device.
func (d *Device) Caps() block.Caps {
	return block.Caps{ReadOnly: true, BlockSize: d.below.Caps().BlockSize}
}

// Close implements block.Device.
func (d *Device) Close() error { return d.below.Close() }

var _ block.Device = (*Device)(nil)
