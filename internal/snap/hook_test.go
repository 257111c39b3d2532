package snap

import (
	"iter"

	"cowl/internal/block"
)

// hooked is a device before whose operations a test does something else, once:
// what another client may do in that moment.
type hooked struct {
	block.Device
	before map[string]func()
}

func (d *hooked) run(op string) {
	if f := d.before[op]; f != nil {
		delete(d.before, op)
		f()
	}
}

func (d *hooked) ReadAt(p []byte, off int64) (int, error) {
	d.run("read")
	return d.Device.ReadAt(p, off)
}

func (d *hooked) WriteAt(p []byte, off int64) (int, error) {
	d.run("write")
	return d.Device.WriteAt(p, off)
}

func (d *hooked) Flush() error {
	d.run("flush")
	return d.Device.Flush()
}

func (d *hooked) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	d.run("extents")
	return d.Device.Extents(off, length)
}
