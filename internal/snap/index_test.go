package snap

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"cowl/internal/format/dmsnap"
)

// An index that loses or invents an exception gives a snapshot wrong data.
// Random inserts and removals, dense, sparse and at the far end of 64 bits,
// against a map.
func TestIndexAgainstMap(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, spread := range []uint64{500, 20_000, 1 << 31, 1 << 33, 1 << 62} {
		var x index
		model := map[uint64]uint64{}
		for range 20_000 {
			e := dmsnap.Exception{Old: rng.Uint64N(spread), New: rng.Uint64N(1 << 32)}
			if rng.IntN(3) == 0 {
				_, had := model[e.Old]
				if x.remove(e.Old) != had {
					t.Fatalf("remove %d: had %v", e.Old, had)
				}
				delete(model, e.Old)
				continue
			}
			_, had := model[e.Old]
			if x.insert(e) == had {
				t.Fatalf("insert %d: had %v", e.Old, had)
			}
			if !had {
				model[e.Old] = e.New
			}
		}
		checkIndex(t, &x, model, rng, spread)
	}
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
		e, ok := x.next(old)
		if ok != (j < len(keys)) || ok && e.Old != keys[j] {
			t.Fatalf("next %d: %+v %v", old, e, ok)
		}
	}
}

// The memory that an exception takes decides how large a snapshot can be.
func TestIndexMemory(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for name, next := range map[string]func(i int) uint64{
		"ascending": func(i int) uint64 { return uint64(i) * 3 },
		"random":    func(int) uint64 { return rng.Uint64N(1 << 32) },
	} {
		var x index
		for i := range 1_000_000 {
			x.insert(dmsnap.Exception{Old: next(i), New: uint64(i)})
		}
		bytes := float64(len(x.leaves)) * float64(unsafe.Sizeof(leaf{})+unsafe.Sizeof(&leaf{}))
		if per := bytes / float64(x.count); per > 12.1 {
			t.Errorf("%s: %.1f bytes an exception", name, per)
		} else {
			t.Logf("%s: %.1f bytes an exception", name, per)
		}
	}
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
