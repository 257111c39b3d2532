//go:build linux

package kernel

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"cowl/internal/block/blocktest"
)

// The same random operations on both sides must give the same contents and
// the same status lines, whoever wrote the store before: the two deactivate,
// exchange their stacks, and finish each other's merges. This is where a store
// that only its own writer understands, or numbers that drift apart, would show.
func TestDifferential(t *testing.T) {
	d := newDifferential(t)
	goal := 2_000
	if blocktest.Long() {
		goal = 100_000
	}
	for began, said := time.Now(), time.Now(); d.total() < goal; {
		d.act()
		if t.Failed() {
			t.Fatalf("after %d operations", d.total())
		}
		if time.Since(said) > 30*time.Second {
			said = time.Now()
			t.Logf("%d operations, %.0f a second: %v", d.total(), float64(d.total())/time.Since(began).Seconds(), d.done)
		}
	}
	d.compare()
	t.Logf("%d operations: %v", d.total(), d.done)
}

// small is the snapshot that overflows.
const small = 2

// differential is two sides with a stack each, and what the stacks hold.
type differential struct {
	*world
	t      *testing.T
	stacks []*stack
	kernel *dm
	sides  []side
	turn   int // side i has stack (i + turn) % 2
	done   map[string]int
}

func newDifferential(t *testing.T) *differential {
	rng := newRand(t)
	chunk := int64(4096) << rng.IntN(4)
	size := 192*chunk + 512*rng.Int64N(chunk/512) // the last chunk may be a part of one
	cows := []int64{2*size + 64*chunk, 2*size + 64*chunk, small: size / 4 / chunk * chunk}
	t.Logf("chunk %d, origin %d, COWs %d", chunk, size, cows)
	d := &differential{
		world: newWorld(rng, chunk, size), t: t, done: map[string]int{},
		stacks: []*stack{newStack(t, chunk, size, cows...), newStack(t, chunk, size, cows...)},
	}
	d.kernel = newDM(t, d.stacks...)
	d.sides = []side{&engine{t: t, rng: rng}, d.kernel}
	d.open()
	return d
}

func (d *differential) total() (n int) {
	for v := range maps.Values(d.done) {
		n += v
	}
	return n
}

func (d *differential) open() {
	for i, s := range d.sides {
		s.open(d.stacks[(i+d.turn)%2], d.attached()...)
	}
}

func (d *differential) shut() {
	for _, s := range d.sides {
		s.shut()
	}
}

// act does something random on both sides.
func (d *differential) act() {
	d.t.Helper()
	switch n := d.rng.IntN(20); {
	case n < 8:
		d.writes()
	case n < 10:
		d.zeroes()
	case n < 12:
		d.discards()
	case n < 15:
		d.snapshot()
	case n == 15:
		d.done["deactivate"]++
		d.reopen(0)
	case n < 18:
		d.done["exchange"]++
		d.reopen(1)
	default:
		d.mergeOne()
	}
}

// usable returns the origin, twice, and the snapshots that are valid.
func (d *differential) usable() []int {
	devs := []int{-1, -1}
	for _, i := range d.attached() {
		if !d.invalid[i] {
			devs = append(devs, i)
		}
	}
	return devs
}

// writes is a batch of writes, in flight together, and a look at everything.
func (d *differential) writes() {
	d.t.Helper()
	ws := d.batch(60+d.rng.IntN(120), d.usable()...)
	for _, w := range ws {
		if w.dev < 0 {
			d.done["write the origin"]++
		} else {
			d.done["write a snapshot"]++
		}
	}
	d.both("write", func(s side) error { return s.write(ws) })
	d.compare()
}

// both does what may fail only because a snapshot overflows; see compare.
func (d *differential) both(what string, do func(s side) error) {
	d.t.Helper()
	for _, s := range d.sides {
		if err := do(s); err != nil && !d.overflowed(s) {
			d.t.Errorf("%s: %s: %v", s.name(), what, err)
		}
	}
}

func (d *differential) overflowed(s side) bool {
	return slices.ContainsFunc(d.attached(), func(i int) bool { return s.status(i) == "Invalid" })
}

// compare counts what overflowed besides.
func (d *differential) compare() {
	d.t.Helper()
	before := len(d.invalid)
	d.world.compare(d.t, d.sides)
	d.done["overflow"] += max(0, len(d.invalid)-before)
}

// part draws a range of the devices.
func (d *differential) part() (off, length int64) {
	size := int64(len(d.origin)) / 512
	length = 1 + d.rng.Int64N(min(size, 6*d.chunk/512))
	return d.rng.Int64N(size-length+1) * 512, length * 512
}

func (d *differential) zeroes() {
	d.t.Helper()
	for range 5 {
		devs := d.usable()
		dev := devs[d.rng.IntN(len(devs))]
		off, length := d.part()
		d.apply(write{dev, off, make([]byte, length)})
		d.done["zero"]++
		d.both("zero", func(s side) error { return s.zero(dev, off, length) })
	}
}

// discards says that ranges are not needed and then writes them, since nobody
// knows what they read as in between: the snapshots must have kept them.
func (d *differential) discards() {
	d.t.Helper()
	for range 3 {
		off, length := d.part()
		x := write{-1, off, make([]byte, length)}
		for i := range x.data {
			x.data[i] = byte(d.rng.Uint32())
		}
		d.apply(x)
		d.done["discard"]++
		for _, s := range d.sides {
			s.discard(off, length)
		}
		d.both("write what was discarded", func(s side) error { return s.write([]write{x}) })
	}
}

// snapshot takes one, in the place of one that is there already.
func (d *differential) snapshot() {
	d.t.Helper()
	i := d.rng.IntN(3)
	if d.snaps[i] != nil && !d.invalid[i] && d.rng.IntN(3) > 0 {
		return
	}
	for _, s := range d.sides {
		if d.snaps[i] != nil {
			s.remove(i)
		}
		s.create(i)
	}
	if d.snaps[i] != nil {
		d.done["remove"]++
	}
	d.create(i)
	d.done["create"]++
}

// reopen deactivates both sides, and has them exchange their stacks if turn
// is 1.
func (d *differential) reopen(turn int) {
	d.t.Helper()
	d.shut()
	d.turn += turn
	d.open()
	d.compare()
}

// mergeOne merges a snapshot on both sides, under writes to what else there
// is. The two may stop in the middle and go on with each other's.
func (d *differential) mergeOne() {
	d.t.Helper()
	devs := d.usable()[2:]
	if len(devs) == 0 {
		return
	}
	i := devs[d.rng.IntN(len(devs))]
	handOver := d.rng.IntN(2) == 0
	d.kernel.delay = 0
	if handOver {
		d.kernel.delay = 5
	}
	for _, s := range d.sides {
		s.merge(i)
	}
	d.merge(i)
	d.done["merge"]++
	d.whileMerging()
	if handOver {
		d.done["hand a merge over"]++
		for _, s := range d.sides {
			s.mergePause()
		}
		d.turn++
		d.kernel.delay = 0
		for k, s := range d.sides {
			s.openMerging(d.stacks[(k+d.turn)%2], i, d.attached()...)
		}
		d.whileMerging()
	}
	for _, s := range d.sides {
		s.mergeAll()
	}
	d.compare()
}

// whileMerging writes. How far the siblings have come depends on how far the
// merge has: the one that may overflow, which fails a batch, is left alone, and
// of what there is only the origin is compared.
func (d *differential) whileMerging() {
	d.t.Helper()
	ws := d.batch(10, slices.DeleteFunc(d.usable(), func(i int) bool { return i == small })...)
	d.done["write while merging"] += len(ws)
	d.both("write while merging", func(s side) error { return s.write(ws) })
	for _, s := range d.sides {
		if err := d.origins(s); err != nil {
			d.t.Error(err)
		}
	}
}

func (d *differential) origins(s side) error {
	got, err := s.read(-1)
	if err != nil {
		return fmt.Errorf("%s: read the merging origin: %w", s.name(), err)
	}
	if at := differ(got, d.origin); at >= 0 {
		return fmt.Errorf("%s: the merging origin differs first in sector %d (chunk %d)", s.name(), at/512, int64(at)/d.chunk)
	}
	return nil
}
