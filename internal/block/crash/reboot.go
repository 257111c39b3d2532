package crash

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"

	"cowl/internal/block"
)

// Policy chooses what a sector with unflushed versions holds after the power
// cut: 0 for what was durable, i for the i-th of s.Ops. It must not use the
// world, nor keep s.Ops.
type Policy func(s Sector) int

// Sector is a sector with unflushed versions.
type Sector struct {
	Disk   string
	Number int64   // of 512 bytes
	Ops    []int64 // the operations that made its versions, oldest first
}

// None is the cache that was lost.
func None(Sector) int { return 0 }

// All is the cache that was written in the last moment.
func All(s Sector) int { return len(s.Ops) }

// Only lets one operation survive.
func Only(op int64) Policy {
	return func(s Sector) int { return newest(s, func(o int64) bool { return o == op }) }
}

// Without loses one operation: sectors hold the newest version that is not its.
func Without(op int64) Policy {
	return func(s Sector) int { return newest(s, func(o int64) bool { return o != op }) }
}

// UpTo loses all operations after op, as a cache that writes in order does.
func UpTo(op int64) Policy {
	return func(s Sector) int { return newest(s, func(o int64) bool { return o <= op }) }
}

// newest returns the newest version whose operation survives, 0 if none does.
func newest(s Sector, survives func(op int64) bool) int {
	for i := len(s.Ops); i > 0; i-- {
		if survives(s.Ops[i-1]) {
			return i
		}
	}
	return 0
}

// Random returns a policy for one reboot. What it draws is one of several
// characters, since sectors that all toss the same coin never come near the
// states in which most, or whole operations, survive.
func Random(rng *rand.Rand) Policy {
	odds := []float64{0.05, 0.5, 0.95}[rng.IntN(3)]
	switch rng.IntN(3) {
	case 0: // any version
		return func(s Sector) int { return rng.IntN(len(s.Ops) + 1) }
	case 1: // the newest with these odds, otherwise any other
		return func(s Sector) int {
			if rng.Float64() < odds {
				return len(s.Ops)
			}
			return rng.IntN(len(s.Ops))
		}
	}
	fate := make(map[int64]bool) // operations survive as a whole
	return func(s Sector) int {
		for _, op := range s.Ops {
			if _, drawn := fate[op]; !drawn {
				fate[op] = rng.Float64() < odds
			}
		}
		return newest(s, func(op int64) bool { return fate[op] })
	}
}

// Reboot returns the world's disks as they may be found after a power cut at
// this moment, in their order, in a new world with empty caches. The world
// itself is left as it is.
func (w *World) Reboot(p Policy) []*Disk {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := NewWorld()
	for _, d := range w.disks {
		d.survive(next.add(d.name, d.durable.Clone()), p)
	}
	return next.disks
}

// survive writes to a copy of what is durable what the policy lets survive.
func (d *Disk) survive(to *Disk, p Policy) {
	s := Sector{Disk: d.name}
	for _, s.Number = range d.unsyncedIn(0, d.Size()) {
		vs := d.unsynced[s.Number]
		s.Ops = s.Ops[:0]
		for _, v := range vs {
			s.Ops = append(s.Ops, v.by.op)
		}
		if i := p(s); i > 0 {
			if _, err := to.durable.WriteAt(vs[i-1].data, s.Number*block.SectorSize); err != nil {
				panic(err) // memory does not fail, and the sector is within the disk
			}
		}
	}
}

// Unsynced returns the operations, in order, of which something is unflushed.
func (w *World) Unsynced() []int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ops []int64
	for _, d := range w.disks {
		for _, vs := range d.unsynced {
			for _, v := range vs {
				ops = append(ops, v.by.op)
			}
		}
	}
	slices.Sort(ops)
	return slices.Compact(ops)
}

// Extremes yields every deterministic policy that makes a difference, with a
// name for messages: None, All, and Only, Without and UpTo of each unflushed
// operation.
func (w *World) Extremes() iter.Seq2[string, Policy] {
	return func(yield func(string, Policy) bool) {
		ops := w.Unsynced()
		if !yield("nothing unflushed survives", None) || len(ops) == 0 {
			return
		}
		if !yield("everything survives", All) || len(ops) == 1 {
			return
		}
		for i, op := range ops {
			name := "[" + w.Op(op) + "]"
			if !yield("only "+name+" survives", Only(op)) || !yield("all but "+name+" survives", Without(op)) {
				return
			}
			// Up to the first is only the first, up to the last is all.
			if 0 < i && i < len(ops)-1 && !yield("all up to "+name+" survives", UpTo(op)) {
				return
			}
		}
	}
}

// Reboots yields a reboot for each of the Extremes and then as many Random ones,
// where there is anything to choose, with names for messages.
func (w *World) Reboots(rng *rand.Rand, random int) iter.Seq2[string, []*Disk] {
	return func(yield func(string, []*Disk) bool) {
		for name, p := range w.Extremes() {
			if !yield(name, w.Reboot(p)) {
				return
			}
		}
		if len(w.Unsynced()) == 0 {
			return
		}
		for i := range random {
			if !yield(fmt.Sprintf("random choice %d", i), w.Reboot(Random(rng))) {
				return
			}
		}
	}
}
