package fault

import (
	"iter"

	"cowl/internal/block"
)

// Device is a device whose operations fail by a Script.
type Device struct {
	script *Script
	name   string
	below  block.Device
}

// run carries out an operation unless the script has it fail.
func (d *Device) run(op Ops, off, length int64, do func() error) error {
	err, after := d.script.check(d.name, op, off, length)
	if err == nil {
		return do()
	}
	if after {
		_ = do() // it fails one way or the other
	}
	return err
}

// ReadAt implements block.Device.
func (d *Device) ReadAt(p []byte, off int64) (n int, err error) {
	err = d.run(Read, off, int64(len(p)), func() (err error) {
		n, err = d.below.ReadAt(p, off)
		return err
	})
	if err != nil && n == len(p) {
		n = 0
	}
	return n, err
}

// WriteAt implements block.Device.
func (d *Device) WriteAt(p []byte, off int64) (n int, err error) {
	err = d.run(Write, off, int64(len(p)), func() (err error) {
		n, err = d.below.WriteAt(p, off)
		return err
	})
	if err != nil && n == len(p) {
		n = 0
	}
	return n, err
}

// Flush implements block.Device.
func (d *Device) Flush() error { return d.run(Flush, 0, 0, d.below.Flush) }

// Discard implements block.Device.
func (d *Device) Discard(off, length int64) error {
	return d.run(Discard, off, length, func() error { return d.below.Discard(off, length) })
}

// WriteZeroes implements block.Device.
func (d *Device) WriteZeroes(off, length int64) error {
	return d.run(WriteZeroes, off, length, func() error { return d.below.WriteZeroes(off, length) })
}

// Extents implements block.Device.
func (d *Device) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	if err, _ := d.script.check(d.name, Extents, off, length); err != nil {
		return block.NoExtents(err)
	}
	return d.below.Extents(off, length)
}

// Size implements block.Device.
func (d *Device) Size() int64 { return d.below.Size() }

// Caps implements block.Device.
func (d *Device) Caps() block.Caps { return d.below.Caps() }

// Close implements block.Device.
func (d *Device) Close() error { return d.below.Close() }

var _ block.Device = (*Device)(nil)
