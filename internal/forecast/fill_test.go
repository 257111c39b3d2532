package forecast

import (
	"math/rand/v2"
	"testing"
	"time"
)

var start = time.Unix(1700000000, 0)

// filled adds a point a second.
func filled(seconds int, used func(second int) int64) *Fill {
	var f Fill
	for s := range seconds {
		f.Add(start.Add(time.Duration(s)*time.Second), used(s))
	}
	return &f
}

func TestTimeToFull(t *testing.T) {
	const total = 1000
	for _, c := range []struct {
		name    string
		fill    *Fill
		from    time.Duration
		to      time.Duration
		unknown bool
	}{
		{"nothing told", &Fill{}, 0, 0, true},
		{"too little told", filled(fewestPoints-1, func(s int) int64 { return int64(s) }), 0, 0, true},
		{"full", filled(10, func(int) int64 { return total }), 0, 0, false},
		{"does not fill", filled(100, func(int) int64 { return 7 }), Never, Never, false},
		{"does not fill yet", filled(50, func(int) int64 { return 7 }), 0, Never, true},
		{"one a second", filled(101, func(s int) int64 { return int64(s) }), 900 * time.Second, 900 * time.Second, false},
		{"nearly full at one a second", filled(991, func(s int) int64 { return int64(s) }), 10 * time.Second, 10 * time.Second, false},
		{"long alive, at one in 100 s", filled(50000, func(s int) int64 { return int64(s) / 100 }), 47000 * time.Second, 53000 * time.Second, false},
		// A working set that was copied at first and is complete: the first
		// minutes say nothing about the rest.
		{"a set, then one in 10 s", filled(1000, func(s int) int64 { return min(300, int64(3*s)) + int64(s)/10 }), 5900 * time.Second, 6100 * time.Second, false},
		// A burst of 100 within the last 10 s does not mean that the 500 that
		// are left are gone within a minute.
		{"a burst", filled(1000, func(s int) int64 { return 400 + 10*max(0, int64(s)-989) }), 30 * time.Minute, 60 * time.Minute, false},
		// But one that goes on until as much is used as is left does.
		{"the end", filled(1000, func(s int) int64 { return 400 + 100*max(0, int64(s)-996) }), 2 * time.Second, 5 * time.Minute, false},
		{"so slow that it does not matter", filled(5000, func(s int) int64 { return min(1, int64(s)/4000) }), 0, Never, false},
	} {
		d, known := c.fill.TimeToFull(total)
		if known == c.unknown || d < c.from || d > c.to {
			t.Errorf("%s: %v (known: %v), want %v to %v", c.name, d, known, c.from, c.to)
		}
	}
}

// However long a store lives and however its owner's clock jumps, what is kept
// is bounded and an answer is an answer.
func TestFillIsBounded(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 5))
		var f Fill
		at, used := start, int64(0)
		for range 3000 {
			at = at.Add(time.Duration(rng.Int64N(int64(20*time.Second))) - time.Second)
			if used += rng.Int64N(100); rng.IntN(500) == 0 {
				used = 0 // another store
			}
			f.Add(at, used)
			d, known := f.TimeToFull(used + rng.Int64N(100000))
			if d < 0 || !known && d != 0 || len(f.points) > fillPoints {
				t.Fatalf("seed %d: %v, %v, %d points", seed, d, known, len(f.points))
			}
		}
	}
}
