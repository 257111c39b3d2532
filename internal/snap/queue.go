package snap

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cowl/internal/block"
)

// writebackDelay is how long a write may stay in memory before it is committed
// without anyone asking for it.
const writebackDelay = 100 * time.Millisecond

// committer makes the changes that need exceptions, in batches. Writes to the
// origin are staged in memory and acknowledged, as a disk with a volatile
// cache does; everything else waits for its commit.
//
// Whoever needs a commit does it, for everybody's requests. For what nobody
// waits for there are goroutines that live while there is something to write;
// Origin.Close waits for them.
type committer struct {
	dev    block.Device // the origin's
	manual bool         // no goroutines, see OriginOptions

	pages atomic.Int64 // in all generations; changed under mu

	mu     sync.Mutex
	turn   sync.Cond     // a commit has ended
	gens   []*generation // oldest first; only the last may be unsealed
	snaps  []*Snapshot   // that new generations copy out for
	seq    uint64        // of the next generation
	busy   bool          // a commit is under way
	timer  *time.Timer   // of the writeback; nil if manual
	worker sync.WaitGroup
	active bool // a worker runs
	free   []*page
	spare  map[int64]*page // empty, of a generation that is committed
	room   int64           // how much weight the stores have room for, at least; see measure

	// Commits that lost acknowledged writes, how many of them a flush has
	// reported, and why the last one did.
	lost, told uint64
	reason     error

	// These belong to who is busy.
	old []byte // chunks that were read from the origin
	buf []byte // new chunks and pages on their way
}

// request is a change that somebody waits for: to the origin (snap is nil) or
// to a snapshot.
type request struct {
	snap *Snapshot
	change
	err    error
	filled bool // a snapshot's change that its new chunks hold already
	done   bool // guarded by committer.mu
}

func (c *committer) init(dev block.Device, manual bool) {
	c.dev, c.manual = dev, manual
	c.turn.L = &c.mu
	c.room = math.MaxInt64
	if !manual {
		c.timer = time.AfterFunc(math.MaxInt64, c.writeback)
	}
}

// open returns the generation that takes new writes. The caller holds mu.
func (c *committer) open() *generation {
	if n := len(c.gens); n > 0 && !c.gens[n-1].sealed {
		return c.gens[n-1]
	}
	g := &generation{seq: c.seq, pages: c.spare, last: -1}
	if c.spare = nil; g.pages == nil {
		g.pages = map[int64]*page{}
	}
	c.seq++
	c.gens = append(c.gens, g)
	if !c.manual {
		c.timer.Reset(writebackDelay)
	}
	return g
}

// seal ends the open generation, if there is one. The caller holds mu.
func (c *committer) seal() {
	if n := len(c.gens); n > 0 && !c.gens[n-1].sealed {
		c.gens[n-1].sealed = true
		c.gens[n-1].snaps = c.snaps
	}
}

// attached changes the snapshots that writes from now on are copied out for.
// It returns the number of the first generation that knows them.
func (c *committer) attached(snaps []*Snapshot) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seal()
	c.snaps = slices.Clone(snaps)
	c.measure()
	return c.seq
}

// chunk returns the largest chunk size, at least a page. The caller holds mu.
func (c *committer) chunk() int64 {
	chunk := int64(pageSize)
	for _, n := range c.snaps {
		chunk = max(chunk, n.store.layout.ChunkBytes)
	}
	return chunk
}

// stage takes as much of a write as there is room for, in memory and in the
// stores, and returns how much that is. The write must be aligned to sectors.
func (c *committer) stage(ch change) (n int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	chunk := c.chunk()
	for n < ch.length && c.weight() < stageBytes {
		part, err := c.admit(ch.part(ch.off+n, ch.end()), nil)
		if err != nil && n > 0 {
			break
		}
		if err != nil {
			return 0, err
		}
		g := c.open()
		n += g.add(part, chunk, c.fresh)
		if g.weight >= batchBytes {
			c.seal()
			c.work()
		}
	}
	return n, nil
}

// weight returns the weight of all generations. The caller holds mu.
func (c *committer) weight() (total int64) {
	for _, g := range c.gens {
		total += g.weight
	}
	return total
}

// fresh returns an empty page. The caller holds mu.
func (c *committer) fresh() *page {
	c.pages.Add(1)
	if n := len(c.free); n > 0 {
		p := c.free[n-1]
		c.free = c.free[:n-1]
		p.mask = 0
		return p
	}
	return new(page)
}

// enqueue adds changes that their maker will wait for, cut so that none takes
// more memory than a batch.
func (c *committer) enqueue(reqs ...*request) []*request {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(reqs...)
	return reqs
}

// add is enqueue for who holds mu.
func (c *committer) add(reqs ...*request) {
	for _, r := range reqs {
		g := c.open()
		g.reqs = append(g.reqs, r)
		if g.weight += r.weight(c.chunk()); g.weight >= batchBytes {
			c.seal()
		}
	}
}

// weight is what the change's chunks of a size take, bytes.
func (c change) weight(chunk int64) int64 { return roundUp(c.end(), chunk) - c.off/chunk*chunk }

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

// wait returns when the requests have been made, with the first error.
func (c *committer) wait(reqs ...*request) error {
	if len(reqs) == 0 {
		return nil
	}
	c.mu.Lock()
	for !reqs[len(reqs)-1].done {
		c.next()
	}
	c.mu.Unlock()
	for _, r := range reqs {
		if r.err != nil {
			return r.err
		}
	}
	return nil
}

// waitRoom returns when a write can be staged.
func (c *committer) waitRoom() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.weight() >= stageBytes {
		c.next()
	}
}

// drain commits what has been staged and enqueued up to now.
func (c *committer) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drainTo(c.seq)
}

// drainTo commits the generations before seq. The caller holds mu, which is
// released in between.
func (c *committer) drainTo(seq uint64) {
	for len(c.gens) > 0 && c.gens[0].seq < seq {
		c.next()
	}
}

// flush drains, and reports once what acknowledged writes were lost.
func (c *committer) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drainTo(c.seq)
	if c.told == c.lost {
		return nil
	}
	c.told = c.lost
	return c.reason
}

// work starts a goroutine that commits what is sealed, unless one runs. The
// caller holds mu.
func (c *committer) work() {
	if c.manual || c.active {
		return
	}
	c.active = true
	c.worker.Go(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for len(c.gens) > 0 && c.gens[0].sealed {
			c.next()
		}
		c.active = false
	})
}

// writeback commits what has waited for company long enough.
func (c *committer) writeback() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seal()
	if len(c.gens) > 0 {
		c.work()
	}
}

// close commits everything and ends the goroutines.
func (c *committer) close() error {
	err := c.flush()
	if c.timer != nil {
		c.timer.Stop()
	}
	c.worker.Wait()
	return err
}

// next commits the oldest generation, or waits for the commit under way. The
// caller holds mu, which is released in between.
func (c *committer) next() {
	if c.busy {
		c.turn.Wait()
		return
	}
	g := c.gens[0]
	if !g.sealed {
		c.seal()
	}
	c.busy = true
	c.mu.Unlock()
	err := c.run(g)
	c.mu.Lock()
	c.busy = false
	c.gens = slices.Delete(c.gens, 0, 1)
	c.measure()
	if err != nil {
		c.lost++
		c.reason = err
	}
	c.pages.Add(-int64(len(g.pages)))
	for _, p := range g.pages {
		c.free = append(c.free, p)
	}
	clear(g.pages)
	c.spare = g.pages
	for _, r := range g.reqs {
		r.done = true
	}
	c.turn.Broadcast()
}
