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
	caches := w.caches()
	caches.choose(p)
	return caches.reboot(w)
}

// caches is all that is unflushed at a moment, in order of disk and sector, and
// for each sector what was chosen for it.
type caches struct {
	sectors  []Sector
	disk     []int // by index in World.disks
	versions [][]version
	chosen   []int
	ops      int // operations until then
}

// caches returns what is unflushed. w.mu is held.
func (w *World) caches() *caches {
	c := &caches{ops: len(w.log)}
	for i, d := range w.disks {
		for _, no := range d.unsyncedIn(0, d.Size()) {
			vs := d.unsynced[no]
			s := Sector{Disk: d.name, Number: no, Ops: make([]int64, len(vs))}
			for j, v := range vs {
				s.Ops[j] = v.by.op
			}
			c.sectors, c.disk, c.versions = append(c.sectors, s), append(c.disk, i), append(c.versions, vs)
		}
	}
	c.chosen = make([]int, len(c.sectors))
	return c
}

// choose lets the policy choose, and returns a fingerprint of what it chose.
func (c *caches) choose(p Policy) (print uint64) {
	for i, s := range c.sectors {
		c.chosen[i] = p(s)
		if n := c.chosen[i]; n > 0 {
			print += mix(uint64(c.disk[i])<<56 ^ uint64(s.Number)<<24 ^ uint64(s.Ops[n-1]))
		}
	}
	return print
}

// mix is the finalizer of splitmix64: bits that differ spread over all.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// reboot makes disks of what is durable and what was chosen. w.mu is held.
func (c *caches) reboot(w *World) []*Disk {
	next := NewWorld()
	for _, d := range w.disks {
		next.add(d.name, d.durable.Clone())
	}
	for i, n := range c.chosen {
		if n == 0 {
			continue
		}
		if _, err := next.disks[c.disk[i]].durable.WriteAt(c.versions[i][n-1].data, c.sectors[i].Number*block.SectorSize); err != nil {
			panic(err) // memory does not fail, and the sector is within the disk
		}
	}
	return next.disks
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

// Cuts yields reboots like Reboots, but none that came out the same as one that
// it has yielded since the last flush of any disk: what a power cut may leave is
// worth looking at again only when more has been promised. It is for a Watch, in
// which one moment differs from that before by one operation. It yields at most
// so many of the Extremes, at random, and then at most so many Random ones.
func (w *World) Cuts(rng *rand.Rand, extremes, random int) iter.Seq2[string, []*Disk] {
	return func(yield func(string, []*Disk) bool) {
		var c *caches
		fresh := func(p Policy) (disks []*Disk) {
			c, disks = w.fresh(c, p)
			return disks
		}
		var names []string
		var policies []Policy
		for name, p := range w.Extremes() {
			names, policies = append(names, name), append(policies, p)
		}
		for _, i := range rng.Perm(len(policies)) {
			if extremes == 0 {
				break
			}
			if disks := fresh(policies[i]); disks != nil {
				extremes--
				if !yield(names[i], disks) {
					return
				}
			}
		}
		for i := range random {
			if disks := fresh(Random(rng)); disks != nil && !yield(fmt.Sprintf("random choice %d", i), disks) {
				return
			}
		}
	}
}

// fresh returns a reboot unless Cuts has yielded the same, and the caches, which
// serve again as long as there is no operation.
func (w *World) fresh(c *caches, p Policy) (*caches, []*Disk) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c == nil || c.ops != len(w.log) {
		c = w.caches()
	}
	print := c.choose(p)
	if w.yielded[print] {
		return c, nil
	}
	w.yielded[print] = true
	return c, c.reboot(w)
}
