// Package linear maps one device onto parts of others: end to end (New), one
// part alone (Section), or in stripes (Stripe). It stores nothing.
//
// The devices below are borrowed: Close does not close them, and a Flush
// flushes all of each, whoever wrote to it.
package linear

import (
	"iter"
	"slices"

	"cowl/internal/block"
)

// Device is a map onto parts of other devices. It has no lock: it never
// changes.
type Device struct {
	layout layout
	below  []block.Device // each once
	size   int64          // bytes
	caps   block.Caps
}

// layout says where bytes are.
type layout interface {
	// place returns the device and offset that hold the byte at off, and how
	// many of the following length bytes lie there together, at least one. The
	// range is within the device, and length is positive.
	place(off, length int64) (dev block.Device, devOff, n int64)
}

// newDevice makes a device over those below, which may repeat. A discard frees
// space where one of them does so; zeroing is cheap only where all of them say
// it is.
func newDevice(l layout, size int64, below []block.Device) *Device {
	d := &Device{layout: l, size: size}
	d.caps = block.Caps{Zeroes: len(below) > 0, BlockSize: block.SectorSize}
	for _, dev := range below {
		if !slices.Contains(d.below, dev) {
			d.below = append(d.below, dev)
		}
		c := dev.Caps()
		d.caps.ReadOnly = d.caps.ReadOnly || c.ReadOnly
		d.caps.Discard = d.caps.Discard || c.Discard
		d.caps.Zeroes = d.caps.Zeroes && c.Zeroes
		d.caps.BlockSize = max(d.caps.BlockSize, c.BlockSize)
	}
	return d
}

// ReadAt implements block.Device.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	if err := block.CheckRange(off, int64(len(p)), d.size); err != nil {
		return 0, err
	}
	for done := 0; done < len(p); {
		dev, devOff, n := d.layout.place(off+int64(done), int64(len(p)-done))
		got, err := dev.ReadAt(p[done:done+int(n)], devOff)
		if done += got; err != nil {
			return done, err
		}
	}
	return len(p), nil
}

// WriteAt implements block.Device.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	if err := d.checkChange(off, int64(len(p))); err != nil {
		return 0, err
	}
	for done := 0; done < len(p); {
		dev, devOff, n := d.layout.place(off+int64(done), int64(len(p)-done))
		got, err := dev.WriteAt(p[done:done+int(n)], devOff)
		if done += got; err != nil {
			return done, err
		}
	}
	return len(p), nil
}

// checkChange checks a change's range, and that every device below can be
// written, so that no request stops half way for that.
func (d *Device) checkChange(off, length int64) error {
	if d.caps.ReadOnly {
		return block.ErrReadOnly
	}
	return block.CheckRange(off, length, d.size)
}

// Flush implements block.Device. Every device below is flushed, also when one
// of them fails.
func (d *Device) Flush() error {
	var first error
	for _, dev := range d.below {
		if err := dev.Flush(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// Discard implements block.Device.
func (d *Device) Discard(off, length int64) error {
	return d.change(off, length, block.Device.Discard)
}

// WriteZeroes implements block.Device.
func (d *Device) WriteZeroes(off, length int64) error {
	return d.change(off, length, block.Device.WriteZeroes)
}

// change calls the method on each part of the range.
func (d *Device) change(off, length int64, method func(dev block.Device, off, length int64) error) error {
	if err := d.checkChange(off, length); err != nil {
		return err
	}
	for length > 0 {
		dev, devOff, n := d.layout.place(off, length)
		if err := method(dev, devOff, n); err != nil {
			return err
		}
		off += n
		length -= n
	}
	return nil
}

// Part is where a stretch of a device lies on one of those below.
type Part struct {
	Dev      block.Device
	Off, Len int64 // on Dev, bytes
}

// Parts walks a range of the device, which must lie within it, in order.
func (d *Device) Parts(off, length int64) iter.Seq[Part] {
	return func(yield func(Part) bool) {
		for length > 0 {
			dev, devOff, n := d.layout.place(off, length)
			if !yield(Part{dev, devOff, n}) {
				return
			}
			off += n
			length -= n
		}
	}
}

// Extents implements block.Device. Depths are those of the devices below: a
// map holds nothing, so it is not a layer.
func (d *Device) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	if err := block.CheckRange(off, length, d.size); err != nil {
		return block.NoExtents(err)
	}
	return block.Coalesce(func(yield func(block.Extent, error) bool) {
		for off, length := off, length; length > 0; {
			dev, devOff, n := d.layout.place(off, length)
			for e, err := range dev.Extents(devOff, n) {
				e.Off += off - devOff
				if !yield(e, err) || err != nil {
					return
				}
			}
			off += n
			length -= n
		}
	})
}

// Size implements block.Device.
func (d *Device) Size() int64 { return d.size }

// Caps implements block.Device.
func (d *Device) Caps() block.Caps { return d.caps }

// Close implements block.Device. It leaves the devices below open.
func (d *Device) Close() error { return nil }

var _ block.Device = (*Device)(nil)
