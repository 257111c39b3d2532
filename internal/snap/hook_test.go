package snap

import (
	"iter"
	"sync"

	"cowl/internal/block"
)

// hooked is a device before whose operations a test does something else, once:
// what another client may do in that moment.
type hooked struct {
	block.Device
	mu     sync.Mutex
	before map[string]func() // guarded by mu
}

// set has f called before the next operation of a kind; nil takes that back.
func (d *hooked) set(op string, f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.before[op] = f
}

func (d *hooked) run(op string) {
	d.mu.Lock()
	f := d.before[op]
	delete(d.before, op)
	d.mu.Unlock()
	if f != nil {
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
