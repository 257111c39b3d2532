package snap

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"cowl/internal/block/blocktest"
	"cowl/internal/format/dmsnap"
)

// An index that loses or invents an exception gives a snapshot wrong data.
// Random inserts and removals, one by one, in runs and in bulk, dense, sparse
// and at the far end of 64 bits, against a map.
func TestIndexAgainstMap(t *testing.T) {
	seed := blocktest.Seed(t)
	rounds := 400
	if blocktest.Long() {
		rounds = 3000
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, spread := range []uint64{500, 20_000, 1 << 31, 1 << 33, 1 << 40, 1 << 62} {
		m := indexModel{rng: rng, spread: spread, model: map[uint64]uint64{}}
		for range rounds {
			ops := []func() error{m.single, m.single, m.run, m.run, m.bulk, m.removeRun, m.removeSome}
			if err := ops[rng.IntN(len(ops))](); err != nil {
				t.Fatalf("seed %d, spread %d: %v", seed, spread, err)
			}
			if err := m.x.check(); err != nil {
				t.Fatalf("seed %d, spread %d: %v", seed, spread, err)
			}
		}
		t.Logf("spread %d: %d exceptions in %d groups", spread, m.x.count, len(m.x.groups))
		checkIndex(t, &m.x, m.model, rng, spread)
		keys := slices.Sorted(maps.Keys(m.model))
		for _, i := range rng.Perm(len(keys)) {
			if !m.x.remove(keys[i]) {
				t.Fatalf("%d is gone", keys[i])
			}
		}
		if m.x.count != 0 || len(m.x.groups) != 0 {
			t.Fatalf("%d exceptions are left, in %d groups", m.x.count, len(m.x.groups))
		}
	}
}

// indexModel is an index beside a map that should say the same.
type indexModel struct {
	rng    *rand.Rand
	spread uint64
	x      index
	model  map[uint64]uint64
}

func (m *indexModel) insert(e dmsnap.Exception) error {
	_, had := m.model[e.Old]
	if m.x.insert(e) == had {
		return fmt.Errorf("insert %+v: had %v", e, had)
	}
	if !had {
		m.model[e.Old] = e.New
	}
	return nil
}

func (m *indexModel) remove(old uint64) error {
	_, had := m.model[old]
	if m.x.remove(old) != had {
		return fmt.Errorf("remove %d: had %v", old, had)
	}
	delete(m.model, old)
	return nil
}

func (m *indexModel) random() dmsnap.Exception {
	return dmsnap.Exception{Old: m.rng.Uint64N(m.spread), New: m.rng.Uint64N(1 << 32)}
}

func (m *indexModel) single() error {
	for range 20 {
		if err := m.insert(m.random()); err != nil {
			return err
		}
	}
	return nil
}

// run inserts neighbours in any order.
func (m *indexModel) run() error {
	e := m.random()
	for _, i := range m.rng.Perm(1 + m.rng.IntN(300)) {
		if err := m.insert(dmsnap.Exception{Old: e.Old + uint64(i), New: (e.New + uint64(i)) % (1 << 32)}); err != nil {
			return err
		}
	}
	return nil
}

// bulk inserts a pile, of which one exception may be there already.
func (m *indexModel) bulk() error {
	p, had := newPile(1<<32), false
	for range m.rng.IntN(2000) {
		e := m.random()
		if _, ok := m.model[e.Old]; ok && m.rng.IntN(1000) > 0 {
			continue
		}
		for i := range m.rng.Uint64N(3) {
			if e := (dmsnap.Exception{Old: e.Old + i, New: (e.New + i) % (1 << 32)}); !p.add(e) {
				if err := m.insert(e); err != nil {
					return err
				}
			}
		}
	}
	p.sort()
	fresh := map[uint64]uint64{}
	for i := range p.list {
		_, ok := m.model[p.old(i)]
		_, twice := fresh[p.old(i)]
		if had = ok || twice; had {
			break
		}
		fresh[p.old(i)] = p.new(i)
	}
	n := len(p.list)
	old, ok := m.x.insertAll(p)
	if ok == had {
		return fmt.Errorf("insert of %d at once says %v, %d", n, ok, old)
	}
	if had { // where it stopped is anybody's guess: begin anew
		m.x = index{}
		for _, old := range slices.Sorted(maps.Keys(m.model)) {
			m.x.insert(dmsnap.Exception{Old: old, New: m.model[old]})
		}
		return nil
	}
	maps.Copy(m.model, fresh)
	return nil
}

func (m *indexModel) removeRun() error {
	e := m.random()
	if len(m.model) > 0 && m.rng.IntN(3) > 0 {
		if next, _, ok := m.x.find(e.Old); ok {
			e = next
		}
	}
	for _, i := range m.rng.Perm(1 + m.rng.IntN(300)) {
		if err := m.remove(e.Old + uint64(i)); err != nil {
			return err
		}
	}
	return nil
}

func (m *indexModel) removeSome() error {
	for range m.rng.IntN(200) {
		e, _, ok := m.x.find(m.rng.Uint64N(m.spread))
		if !ok {
			continue
		}
		if err := m.remove(e.Old); err != nil {
			return err
		}
	}
	return nil
}

// A leaf that is full of runs has no room for what remains when one of them
// falls in two.
func TestRunsOfAFullLeafFallInTwo(t *testing.T) {
	var x index
	for i := range uint64(leafSize / 2) {
		for j := range uint64(5) {
			if i == leafSize/2-1 && j == 2 {
				break // the leaf would be split for a third
			}
			x.insert(dmsnap.Exception{Old: 10*i + j, New: 100 + 10*i + j})
		}
	}
	if len(x.groups) != 1 || len(x.groups[0].leaf) != 1 || len(x.groups[0].leaf[0]) != leafSize {
		t.Fatal("this is no full leaf")
	}
	for i := range uint64(leafSize/2 - 1) {
		if !x.remove(10*i + 2) {
			t.Fatalf("%d is not there", 10*i+2)
		}
		if err := x.check(); err != nil {
			t.Fatal(err)
		}
	}
}

// check returns what is wrong with the structure.
func (x *index) check() error {
	var end uint64 // of what was seen
	count := 0
	for gi, g := range x.groups {
		if len(g.leaf) == 0 || len(g.leaf) > groupSize || len(g.leaf) != len(g.from) || x.from[gi] != g.from[0] {
			return fmt.Errorf("group %d: %d leaves, from %d", gi, len(g.leaf), x.from[gi])
		}
		for li, l := range g.leaf {
			if len(l) == 0 || len(l) > leafSize || g.from[li] < end {
				return fmt.Errorf("leaf %d/%d: %d entries from %d, where %d is taken", gi, li, len(l), g.from[li], end)
			}
			base := g.from[li] &^ (zone - 1)
			end = g.from[li]
			for i := 0; i < len(l); i++ {
				first := base + uint64(l.key(i))
				if first < end || i > 0 && first == end && l.news()[i] == l.news()[i-1]+1 {
					return fmt.Errorf("leaf %d/%d: entry %d at %d, where %d is taken", gi, li, i, first, end)
				}
				n := l.length(i, l.key(i))
				if l.isJoined(i) {
					if i++; i == len(l) || l.isJoined(i) || n < 2 || uint64(l.news()[i]-l.news()[i-1]) != n-1 {
						return fmt.Errorf("leaf %d/%d: run at entry %d of %d", gi, li, i, len(l))
					}
				}
				end, count = first+n, count+int(n)
			}
		}
	}
	if count != x.count {
		return fmt.Errorf("%d exceptions are counted, %d are there", x.count, count)
	}
	return nil
}

func checkIndex(t *testing.T, x *index, model map[uint64]uint64, rng *rand.Rand, spread uint64) {
	t.Helper()
	keys := slices.Sorted(maps.Keys(model))
	if x.count != len(model) {
		t.Fatalf("count %d, want %d", x.count, len(model))
	}
	i := 0
	for e := range x.all() {
		if e.Old != keys[i] || e.New != model[e.Old] {
			t.Fatalf("entry %d: %+v, want %d to %d", i, e, keys[i], model[keys[i]])
		}
		i++
	}
	if last, ok := x.last(); ok && last != keys[len(keys)-1] {
		t.Fatalf("last %d", last)
	}
	for range 5000 {
		old := rng.Uint64N(spread)
		want, has := model[old]
		if got, ok := x.get(old); ok != has || got != want {
			t.Fatalf("get %d: %d %v, want %d %v", old, got, ok, want, has)
		}
		j, _ := slices.BinarySearch(keys, old)
		e, _, ok := x.find(old)
		if ok != (j < len(keys)) || ok && e.Old != keys[j] {
			t.Fatalf("next %d: %+v %v", old, e, ok)
		}
	}
}

// The memory that an exception takes decides how large a snapshot can be. It
// is measured as the heap's growth, and must stay at 12 bytes whatever the
// order in which chunks are written, at any moment of the growth.
func TestIndexMemory(t *testing.T) {
	const entries = 500_000
	shapes := []struct {
		name  string
		limit float64 // bytes an exception
		old   func(i uint64) uint64
	}{
		{"random in 16 TiB", 12, scatter},
		{"random in 4 GiB", 12, func(i uint64) uint64 { return scatter(i) % (1 << 20) }},
		{"ascending with gaps", 12, func(i uint64) uint64 { return 3 * i }},
		{"descending with gaps", 12, func(i uint64) uint64 { return 3 * (entries - i) }},
		{"sequential", 0.3, sequential},
		{"sequential, backwards", 12, func(i uint64) uint64 { return entries - i }},
		{"half in runs of 16, half random", 12, func(i uint64) uint64 {
			if i%32 < 16 {
				return scatter(i/32)&^15 + i%16
			}
			return scatter(i)
		}},
	}
	for _, s := range shapes {
		var x index
		before := heap()
		most := 0.0
		for i := range uint64(entries) {
			x.insert(dmsnap.Exception{Old: s.old(i), New: 2 + i + i/256})
			if i&(i-1) == 0 && i >= 4096 || i%(entries/5) == 0 && i > 0 {
				most = max(most, float64(heap()-before)/float64(x.count))
			}
		}
		now := float64(heap()-before) / float64(x.count)
		t.Logf("%s: %.2f bytes an exception, at most %.2f on the way", s.name, now, most)
		if max(now, most) > s.limit {
			t.Errorf("%s: %.2f bytes an exception, at most %.2f on the way, want at most %.1f", s.name, now, most, s.limit)
		}
		runtime.KeepAlive(&x)
	}
}

// heap returns how much of the heap is in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func BenchmarkIndexInsertRandom(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	var x index
	for b.Loop() {
		x.insert(dmsnap.Exception{Old: rng.Uint64N(1 << 32), New: 5})
	}
}

func BenchmarkIndexGet(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	var x index
	for range 1_000_000 {
		x.insert(dmsnap.Exception{Old: rng.Uint64N(1 << 24), New: 5})
	}
	for b.Loop() {
		x.get(rng.Uint64N(1 << 24))
	}
}
