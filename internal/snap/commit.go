package snap

import (
	"cmp"
	"slices"
)

// run commits a generation: the life of a write, in the package comment's
// steps. It returns the error of the staged writes.
func (c *committer) run(g *generation) error {
	pages := g.numbers()
	plans := c.plan(g, pages)
	old := c.readOld(plans) // 1
	for _, p := range plans {
		c.buf = p.fill(c.buf, old, g.reqs)
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
	err := unsafe
	if err == nil {
		err = c.writePages(g, pages) // 7
	}
	for _, r := range g.reqs {
		switch {
		case r.snap != nil:
			r.err = r.onCow()
		case unsafe != nil:
			r.err = unsafe
		default:
			r.err = r.change.apply(c.dev)
		}
	}
	return err
}

// writePages writes the staged pages to the origin, neighbours in one piece.
func (c *committer) writePages(g *generation, pages []int64) error {
	var first error
	var start int64
	buf := c.buf[:0]
	write := func() {
		if len(buf) > 0 {
			if _, err := c.dev.WriteAt(buf, start); err != nil && first == nil {
				first = err
			}
		}
		buf = buf[:0]
	}
	g.stretches(pages, func(off int64, data []byte) {
		if off != start+int64(len(buf)) || len(buf) >= pieceBytes {
			write()
			start = off
		}
		buf = append(buf, data...)
	})
	write()
	c.buf = buf
	return first
}

// plan finds out which chunks every store has to take, and gives them places.
func (c *committer) plan(g *generation, pages []int64) []*plan {
	var plans []*plan
	size := c.dev.Size()
	for _, n := range g.snaps {
		if n.detached.Load() || !n.store.wantsCommit() {
			continue
		}
		p := &plan{snap: n, store: n.store, size: size, err: n.store.err()}
		if p.err == nil {
			g.stretches(pages, func(off int64, data []byte) { p.want(off, off+int64(len(data)), nil) })
			for _, r := range g.reqs {
				if r.snap == nil {
					p.want(r.off, r.end(), nil)
				} else if r.snap == n {
					p.want(r.off, r.end(), r)
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
	var total int64
	for _, s := range merged {
		total += s.end - s.off
	}
	c.old = slices.Grow(c.old[:0], int(total))[:total]
	rest := c.old
	for i := range merged {
		s := &merged[i]
		s.data, rest = rest[:s.end-s.off], rest[s.end-s.off:]
		_, s.err = c.dev.ReadAt(s.data, s.off)
	}
	return merged
}

// onCow makes a snapshot's own change, whose chunks are excepted by now, on
// the COW device, unless they were filled with it.
func (r *request) onCow() error {
	for off := r.off; off < r.end(); {
		if err := r.snap.usable(); err != nil {
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
