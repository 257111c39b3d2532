package crash

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Campaign runs random histories, each from a seed of its own, on all processors
// until they have seen so many power cuts together: short ones, or long if
// COWL_LONG is set, or COWL_CUTS if that is. A history returns how many it has
// seen: each a state of the disks that was rebooted from and checked.
//
// A history that fails ends it, with the seed that runs that history alone. It
// logs the total and the rate, in a long run (go test -v) every ten seconds.
func Campaign(t *testing.T, seed uint64, short, long int, history func(seed uint64) (cuts int, err error)) {
	t.Helper()
	c := &campaign{t: t, next: seed, target: target(short, long), history: history, began: time.Now()}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // worlds are short-lived and many
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(c.work)
	}
	workers.Wait()
	c.report()
	if c.err != nil {
		t.Fatalf("COWL_SEED=%d: %v", c.failed, c.err)
	}
}

// target returns how many power cuts there are to be. To replay a seed is to run
// one history.
func target(short, long int) int {
	if n, err := strconv.Atoi(os.Getenv("COWL_CUTS")); err == nil {
		return n
	}
	switch {
	case os.Getenv("COWL_SEED") != "":
		return 1
	case os.Getenv("COWL_LONG") != "":
		return long
	}
	return short
}

type campaign struct {
	t       *testing.T
	target  int
	history func(seed uint64) (int, error)
	began   time.Time

	mu        sync.Mutex // guards all below
	next      uint64     // seed
	running   int
	cuts      int
	histories int
	said      time.Time
	failed    uint64 // the lowest seed that failed
	err       error
}

// work runs histories until there have been enough power cuts.
func (c *campaign) work() {
	for {
		seed, ok := c.take()
		if !ok {
			return
		}
		cuts, err := c.history(seed)
		c.done(seed, cuts, err)
	}
}

// take returns the next history's seed. Of a target that one history reaches
// there is only one.
func (c *campaign) take() (seed uint64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.cuts+c.running >= c.target {
		return 0, false
	}
	c.running++
	c.next++
	return c.next - 1, true
}

func (c *campaign) done(seed uint64, cuts int, err error) {
	c.mu.Lock()
	c.running--
	c.cuts += cuts
	c.histories++
	if err != nil && (c.err == nil || seed < c.failed) {
		c.failed, c.err = seed, err
	}
	speak := time.Since(c.began) > 10*time.Second && time.Since(c.said) > 10*time.Second
	if speak {
		c.said = time.Now()
	}
	c.mu.Unlock()
	if speak {
		c.report()
	}
}

func (c *campaign) report() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t.Logf("%d power cuts in %d histories, %.0f a second", c.cuts, c.histories, float64(c.cuts)/time.Since(c.began).Seconds())
}
