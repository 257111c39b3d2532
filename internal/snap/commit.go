package snap

import (
	"cmp"
	"slices"
	"sync"
)

// batchBytes bounds what one commit takes, and so the memory that old chunks
// need, per chunk size in use.
const batchBytes = 8 << 20

// committer makes changes that need exceptions, in batches: while one commit
// is under way, requests gather for the next. There is no goroutine of its
// own: one of the waiting requests does the work for all.
type committer struct {
	origin *Origin

	mu      sync.Mutex
	turn    sync.Cond  // the batch in progress has ended
	pending []*request // guarded by mu
	busy    bool       // guarded by mu

	buf []byte // new chunks on their way; belongs to the commit in progress
}

// request is a change to the origin (snap is nil) or to a snapshot.
type request struct {
	snap *Snapshot
	change
	err    error
	filled bool // a snapshot's change that its new chunks hold already
	done   bool // guarded by committer.mu
}

func (c *committer) init(o *Origin) {
	c.origin = o
	c.turn.L = &c.mu
}

// pieces makes a change in pieces of bounded size, cut at multiples of
// pieceBytes and so between two chunks wherever chunks are not larger. The
// caller holds the origin's gate for reading.
func (c *committer) pieces(n *Snapshot, ch change) error {
	for off := ch.off; off < ch.end(); {
		var reqs []*request
		for total := int64(0); off < ch.end() && total < batchBytes; {
			end := min(ch.end(), (off/pieceBytes+1)*pieceBytes)
			reqs = append(reqs, &request{snap: n, change: ch.part(off, end)})
			total += end - off
			off = end
		}
		if err := c.do(reqs); err != nil {
			return err
		}
	}
	return nil
}

// do returns when all requests have been made, with the first error.
func (c *committer) do(reqs []*request) error {
	c.mu.Lock()
	c.pending = append(c.pending, reqs...)
	for !reqs[len(reqs)-1].done {
		if c.busy {
			c.turn.Wait()
			continue
		}
		c.busy = true
		batch := c.take()
		c.mu.Unlock()
		c.run(batch)
		c.mu.Lock()
		for _, r := range batch {
			r.done = true
		}
		c.busy = false
		c.turn.Broadcast()
	}
	c.mu.Unlock()
	for _, r := range reqs {
		if r.err != nil {
			return r.err
		}
	}
	return nil
}

// take returns the next batch: the oldest requests, at least one, as many as
// fit batchBytes once they are rounded out to chunks. The caller holds mu.
func (c *committer) take() []*request {
	chunk := int64(1)
	for _, n := range c.origin.snaps {
		chunk = max(chunk, n.store.layout.ChunkBytes)
	}
	var total int64
	n := 0
	for n < len(c.pending) {
		r := c.pending[n]
		total += roundUp(r.end(), chunk) - r.off/chunk*chunk
		if n > 0 && total > batchBytes {
			break
		}
		n++
	}
	batch := slices.Clone(c.pending[:n])
	c.pending = slices.Delete(c.pending, 0, n)
	return batch
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

// run commits one batch: the life of a write, in the package comment's steps.
// The caller holds the origin's gate for reading, and is the only one here.
func (c *committer) run(batch []*request) {
	plans := c.plan(batch)
	old := c.readOld(plans) // 1
	for _, p := range plans {
		c.buf = p.fill(c.buf, old, batch)
		p.writeChunks(c.buf) // 2
	}
	for _, p := range plans {
		p.flush() // 3
	}
	for _, p := range plans {
		p.writeArea() // 4
	}
	for _, p := range plans {
		p.flush() // 5
	}
	var unsafe error
	for _, p := range plans { // 6
		if err := p.finish(); err != nil {
			unsafe = err
		}
	}
	for _, r := range batch { // 7
		switch {
		case r.snap != nil:
			r.err = r.onCow()
		case unsafe != nil:
			r.err = unsafe
		default:
			r.err = r.change.apply(c.origin.dev)
		}
	}
}

// plan finds out which chunks every store has to take, and gives them places.
func (c *committer) plan(batch []*request) []*plan {
	var plans []*plan
	for _, n := range c.origin.snaps {
		if !n.store.wantsCommit() {
			continue
		}
		p := &plan{snap: n, store: n.store, err: n.store.err()}
		if p.err == nil {
			for _, r := range batch {
				if r.snap == nil || r.snap == n {
					p.want(r)
				}
			}
			if len(p.jobs) == 0 {
				continue
			}
			p.allocate()
		}
		plans = append(plans, p)
	}
	return plans
}

// span is a stretch of the origin's bytes.
type span struct {
	off, end int64
	data     []byte
	err      error
}

// readOld reads what the stores will copy: the union of all old chunks, each
// stretch once. It returns the spans in ascending order.
func (c *committer) readOld(plans []*plan) []span {
	var spans []span
	for _, p := range plans {
		for _, j := range p.jobs {
			if !j.whole && p.err == nil {
				off, end := p.bounds(j)
				spans = append(spans, span{off: off, end: end})
			}
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.off, b.off) })
	merged := spans[:0]
	for _, s := range spans {
		if n := len(merged); n > 0 && s.off <= merged[n-1].end {
			merged[n-1].end = max(merged[n-1].end, s.end)
		} else {
			merged = append(merged, s)
		}
	}
	for i := range merged {
		s := &merged[i]
		s.data = make([]byte, s.end-s.off)
		_, s.err = c.origin.dev.ReadAt(s.data, s.off)
	}
	return merged
}

// onCow makes a snapshot's own change, whose chunks are excepted by now, on
// the COW device, unless they were filled with it.
func (r *request) onCow() error {
	for off := r.off; off < r.end(); {
		if err := r.snap.store.err(); err != nil {
			return err
		}
		if r.filled {
			return nil
		}
		run := r.snap.store.nextRun(off, r.end())
		if err := r.part(run.off, run.end()).at(run.cow).apply(r.snap.store.dev); err != nil {
			return err
		}
		off = run.end()
	}
	return nil
}
