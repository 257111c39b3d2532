package snap

import (
	"math/rand/v2"
	"strings"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/mem"
)

// Random histories on healthy disks: whatever happens, every volume reads what
// was written to it.
func TestRandomHistories(t *testing.T) {
	seed := blocktest.Seed(t)
	runs := 60
	if blocktest.Long() {
		runs = 3000
	}
	for i := range runs {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		size := int64(64<<10) + rng.Int64N(3)*1536
		var cows []block.Device
		for range 3 {
			cows = append(cows, mem.New(24<<10+rng.Int64N(200<<10)))
		}
		m := newMachine(rng, mem.New(size), cows)
		m.align = 1 << rng.IntN(11)
		m.lively = i%2 == 1
		for step := range 300 {
			if err := m.step(); err != nil {
				t.Fatalf("seed %d, run %d, step %d: %v\n%s", seed, i, step, err, strings.Join(m.log, ", "))
			}
			if step%10 == 9 {
				if err := m.check(); err != nil {
					t.Fatalf("seed %d, run %d, step %d: %v\n%s", seed, i, step, err, strings.Join(m.log, ", "))
				}
			}
		}
	}
}
