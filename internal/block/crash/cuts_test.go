package crash_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"cowl/internal/block/blocktest"
	"cowl/internal/block/crash"
)

// A watch sees every moment, and Cuts in it all that may be found, each once
// until something has been flushed.
func TestCutsOfAWatchedWorld(t *testing.T) {
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
	w := crash.NewWorld()
	d := w.NewDisk("pv0", 3*sector)
	found := map[string]int{}
	var ops []int64
	w.Watch(func(op int64) {
		ops = append(ops, op)
		for _, disks := range w.Cuts(rng, 100, 100) {
			found[first(t, disks[0])]++
		}
	})
	want := func(what string, states ...string) {
		t.Helper()
		if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, states) {
			t.Errorf("%s: %q, want %q", what, got, states)
		}
		for state, n := range found {
			if n > 1 {
				t.Errorf("%s: %q was found %d times", what, state, n)
			}
		}
		clear(found)
	}
	write(t, d, 0, 1)
	write(t, d, 1, 2, 3)
	write(t, d, 0, 4)
	want("before the flush", "000", "003", "020", "023", "100", "103", "120", "123", "400", "403", "420", "423")
	flush(t, d)
	want("behind the flush", "423")
	write(t, d, 2, 5)
	want("behind another write", "425")
	if !slices.Equal(ops, []int64{1, 2, 3, 4, 5}) {
		t.Errorf("operations %d", ops)
	}

	w.Watch(nil)
	write(t, d, 0, 6)
	want("not watched")
}
