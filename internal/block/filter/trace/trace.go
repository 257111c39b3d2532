// Package trace is a filter that writes down the operations on one or several
// devices, as text that a test compares with a golden file:
//
//	read origin 0+4096
//	write cow 8192+4096
//	flush cow
//	zero cow 0+512
//	discard origin 4096+4096
//	write cow 0+512: no space left
//
// A line is an operation that has returned, in the order of returning; what ran
// side by side has no order that a test could rely on.
package trace

import (
	"fmt"
	"iter"
	"strings"
	"sync"

	"cowl/internal/block"
)

// Log collects the operations of the devices that it wraps. Extents and calls
// of no bytes are not written down.
type Log struct {
	// Reads says whether reads are written down. It must be set before the
	// first Wrap.
	Reads bool

	mu    sync.Mutex // guards lines
	lines []string
}

// Wrap returns the device under observation. Closing it closes the device.
func (l *Log) Wrap(name string, below block.Device) *Device {
	return &Device{log: l, name: name, below: below}
}

// Note adds a line of the test's own, such as "# snapshot created".
func (l *Log) Note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

// Take returns the lines since the last Take, each ended by a newline.
func (l *Log) Take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for _, line := range l.lines {
		b.WriteString(line)
		b.WriteByte('\n')
	}
	l.lines = nil
	return b.String()
}

// Device is a device whose operations are written down.
type Device struct {
	log   *Log
	name  string
	below block.Device
}

// record writes down a call on a range and passes on its error.
func (d *Device) record(op string, off, length int64, err error) error {
	switch {
	case length == 0:
	case err != nil:
		d.log.Note("%s %s %d+%d: %v", op, d.name, off, length, err)
	default:
		d.log.Note("%s %s %d+%d", op, d.name, off, length)
	}
	return err
}

// ReadAt implements block.Device.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.below.ReadAt(p, off)
	if d.log.Reads {
		err = d.record("read", off, int64(len(p)), err)
	}
	return n, err
}

// WriteAt implements block.Device.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	n, err := d.below.WriteAt(p, off)
	return n, d.record("write", off, int64(len(p)), err)
}

// Flush implements block.Device.
func (d *Device) Flush() error {
	err := d.below.Flush()
	if err != nil {
		d.log.Note("flush %s: %v", d.name, err)
	} else {
		d.log.Note("flush %s", d.name)
	}
	return err
}

// Discard implements block.Device.
func (d *Device) Discard(off, length int64) error {
	return d.record("discard", off, length, d.below.Discard(off, length))
}

// WriteZeroes implements block.Device.
func (d *Device) WriteZeroes(off, length int64) error {
	return d.record("zero", off, length, d.below.WriteZeroes(off, length))
}

// Extents implements block.Device.
func (d *Device) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	return d.below.Extents(off, length)
}

// Size implements block.Device.
func (d *Device) Size() int64 { return d.below.Size() }

// Caps implements block.Device.
func (d *Device) Caps() block.Caps { return d.below.Caps() }

// Close implements block.Device.
func (d *Device) Close() error { return d.below.Close() }

var _ block.Device = (*Device)(nil)
