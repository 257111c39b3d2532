package forecast

import (
	"math/rand/v2"
	"testing"
)

// Whatever is written and however the kernel's counts are divided, the truth
// lies between the bounds.
func TestAreasBoundTheTruth(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 6))
		size := int64(256<<20) + rng.Int64N(1<<20)&^511
		areaBytes := int64(4096) << rng.IntN(14)
		if rng.IntN(4) == 0 {
			areaBytes = 1 << 40 // only totals
		}
		a := NewAreas(areaBytes, size, Slot, nil)
		want := newTally()
		sector := int64(512) << (3 * rng.IntN(2)) // of what writes are multiples
		for range 1 + rng.IntN(20) {
			list := make([]Area, (size+areaBytes-1)/areaBytes)
			for range rng.IntN(300) {
				off := rng.Int64N(size>>rng.IntN(8)/sector) * sector
				length := min(size-off, sector*(1+rng.Int64N(1<<rng.IntN(10))))
				want.touch(off, length)
				count(list, areaBytes, off, length)
			}
			a.Step(list)
		}
		p := a.Pattern()
		if err := p.Validate(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		got := p.Windows[len(p.Windows)-1].Samples[0]
		for k, n := range want.counts() {
			if got.Least[k] > n || got.Most[k] < n {
				t.Errorf("seed %d, areas of %d KiB: %d chunks of %d KiB are not from %d to %d",
					seed, areaBytes>>10, n, ChunkBytes(k)>>10, got.Least[k], got.Most[k])
			}
			if areaBytes <= ChunkBytes(k) && got.Least[k] != got.Most[k] {
				t.Errorf("seed %d: areas of %d KiB do not tell chunks of %d KiB: %d to %d", seed, areaBytes>>10, ChunkBytes(k)>>10, got.Least[k], got.Most[k])
			}
		}
	}
}

// count does what device-mapper does: it splits a write where areas end.
func count(list []Area, areaBytes, off, length int64) {
	for length > 0 {
		n := min(length, areaBytes-off%areaBytes)
		list[off/areaBytes] = list[off/areaBytes].plus(Area{1, n})
		off, length = off+n, length-n
	}
}

// Bounds that lie far apart are a guess, however long was watched.
func TestRoughIsAGuess(t *testing.T) {
	total := NewAreas(1<<30, 1<<30, Slot, nil)
	fine := NewAreas(4096, 1<<30, Slot, nil)
	for range 100 {
		total.Step([]Area{{1000, 1000 << 12}})
		list := make([]Area, 1<<30/4096)
		for range 1000 {
			list[rand.IntN(len(list))] = Area{1, 4096}
		}
		fine.Step(list)
	}
	if e := total.Pattern().After(10 * Slot); e.Confidence != Guess || !e.Rough {
		t.Errorf("totals only: %+v", e)
	}
	if e := fine.Pattern().After(10 * Slot); e.Confidence != Good || e.Rough {
		t.Errorf("pages: %+v", e)
	}
}
