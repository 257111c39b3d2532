package crash

import (
	"fmt"
	"sync"

	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
)

// ErrPowerCut is what every call returns once the power is cut.
var ErrPowerCut = errs.E(errs.Other, "power cut")

// World is a machine: disks that share one power supply and one count of
// operations. Its methods may be called while the disks are in use.
type World struct {
	mu    sync.Mutex // guards everything in the world's disks, too
	disks []*Disk

	log    []operation // operation n is log[n-1]
	cut    int64       // the operation that fails, 0 for none
	down   bool
	faults map[int64]error
	fired  int
	watch  func(op int64)

	clock int64 // counts writes that returned

	// yielded has fingerprints of the reboots that Cuts has yielded since the
	// last flush of any disk.
	yielded map[uint64]bool
}

// operation is a line of a world's log.
type operation struct {
	kind     string
	disk     *Disk
	off, len int64
}

// NewWorld returns a world without disks.
func NewWorld() *World { return &World{faults: make(map[int64]error), yielded: make(map[uint64]bool)} }

// New returns a disk of size bytes, all zeroes, in a world of its own.
func New(size int64) *Disk { return NewWorld().NewDisk("disk", size) }

// NewDisk adds a disk of size bytes that reads as zeroes, and is so durably. The
// name is for messages.
func (w *World) NewDisk(name string, size int64) *Disk {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.add(name, mem.New(size))
}

func (w *World) add(name string, durable *mem.Device) *Disk {
	d := &Disk{
		world:    w,
		name:     name,
		durable:  durable,
		unsynced: make(map[int64][]version),
	}
	w.disks = append(w.disks, d)
	return d
}

// Disks returns the world's disks in the order in which they were made.
func (w *World) Disks() []*Disk {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*Disk(nil), w.disks...)
}

// Ops returns how many operations there were, the failed ones included, those
// after the power cut not.
func (w *World) Ops() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return int64(len(w.log))
}

// CutAt cuts the power at operation n, counted from 1 over the world's whole
// life. If operation n is already past, the next one fails.
func (w *World) CutAt(n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = n
}

// Down reports whether the power is cut: CutAt's operation was reached.
func (w *World) Down() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.down
}

// Revive undoes a power cut: it was a process that died at that operation, and
// not the machine. The disks go on with what is in their caches.
func (w *World) Revive() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down, w.cut = false, 0
}

// FailAt makes operation n, counted from 1 over the world's whole life, fail
// with err. A test asks Fired afterwards.
func (w *World) FailAt(n int64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults[n] = err
}

// Fired returns how many of FailAt's errors were returned.
func (w *World) Fired() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fired
}

// Watch calls f behind every operation while the power is on, with its number,
// in the goroutine that did it and before its call returns: in time to look at
// what a power cut in this moment would leave. It is for a start, before the
// disks are used; nil ends it.
func (w *World) Watch(f func(op int64)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watch = f
}

// tell calls the watch.
func (w *World) tell(op int64) {
	w.mu.Lock()
	f, down := w.watch, w.down
	w.mu.Unlock()
	if f != nil && !down {
		f(op)
	}
}

// Op describes operation n, for messages: "3: write pv0 4096+512".
func (w *World) Op(n int64) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n < 1 || n > int64(len(w.log)) {
		return fmt.Sprintf("%d: none", n)
	}
	op := w.log[n-1]
	if op.kind == "flush" {
		return fmt.Sprintf("%d: flush %s", n, op.disk.name)
	}
	return fmt.Sprintf("%d: %s %s %d+%d", n, op.kind, op.disk.name, op.off, op.len)
}

// begin counts an operation and returns its number, and the error that it is to
// end with: none, ErrPowerCut or an injected one. The number is 0 if the power
// was cut before. w.mu is held.
func (w *World) begin(kind string, d *Disk, off, length int64) (int64, error) {
	if w.down {
		return 0, ErrPowerCut
	}
	w.log = append(w.log, operation{kind, d, off, length})
	n := int64(len(w.log))
	if w.cut != 0 && n >= w.cut {
		w.down = true
		return n, ErrPowerCut
	}
	if err := w.faults[n]; err != nil {
		w.fired++
		return n, err
	}
	return n, nil
}

// checkUp returns ErrPowerCut if the power is cut. w.mu is held.
func (w *World) checkUp() error {
	if w.down {
		return ErrPowerCut
	}
	return nil
}

var _ block.Device = (*Disk)(nil)
