package snap

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

const (
	// parallel is how many reads or writes of one step a commit has under way.
	parallel = 8

	// alone is how long a commit goes on with a step by itself: what comes from
	// memory is done before another goroutine would have begun.
	alone = 200 * time.Microsecond
)

// run commits a generation: the life of a write, in the package comment's
// steps. It returns the error of the staged writes.
func (c *committer) run(g *generation) error {
	pages := g.numbers()
	plans := c.plan(g, pages)
	old := c.readOld(plans) // 1
	for _, p := range plans {
		c.writeChunks(p, c.image(p, old, g.reqs)) // 2
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

// joinBytes is how much of neighbouring pages is written to the origin at
// once: less than what goes past the page cache, since what has just been
// written is likely to be read.
const joinBytes = 128 << 10

// writePages writes the staged pages to the origin, neighbours in one piece.
func (c *committer) writePages(g *generation, pages []int64) error {
	var first error
	var start int64
	var piece []byte // a page's, or in buf once it has got a neighbour
	write := func() {
		if len(piece) == 0 {
			return
		}
		if _, err := c.dev.WriteAt(piece, start); err != nil && first == nil {
			first = err
		}
	}
	g.stretches(pages, func(off int64, data []byte) {
		switch {
		case off != start+int64(len(piece)) || len(piece) >= joinBytes:
			write()
			start, piece = off, data
			return
		case len(piece) <= pageSize:
			piece = append(c.buf[:0], piece...)
		}
		piece = append(piece, data...)
		c.buf = piece
	})
	write()
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
	c.old = pageAligned(c.old, int(total))
	rest := c.old
	for i := range merged {
		s := &merged[i]
		s.data, rest = rest[:s.end-s.off], rest[s.end-s.off:]
	}
	c.each(len(merged), func(i int) {
		s := &merged[i]
		_, s.err = c.dev.ReadAt(s.data, s.off)
	})
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

// each calls do for 0 to n-1: in order as long as that is quick, then several
// at a time.
func (c *committer) each(n int, do func(i int)) {
	i, start := 0, time.Now()
	for ; i < n && (c.manual || time.Since(start) < alone); i++ {
		do(i)
	}
	var next atomic.Int64
	next.Store(int64(i))
	var others sync.WaitGroup
	work := func() {
		for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
			do(int(i))
		}
	}
	for range min(parallel, n-i) - 1 {
		others.Go(work)
	}
	work()
	others.Wait()
}

func isPageAligned(b []byte) bool { return uintptr(unsafe.Pointer(&b[0]))%pageSize == 0 }

// pageAligned returns n bytes that begin on a page, as a device's direct I/O
// wants them: in buf where that is long enough. Their content is undefined.
func pageAligned(buf []byte, n int) []byte {
	if cap(buf) < n || n > 0 && !isPageAligned(buf[:n]) {
		buf = make([]byte, n+n/2+pageSize)
		skip := -int(uintptr(unsafe.Pointer(&buf[0]))) & (pageSize - 1)
		buf = buf[skip:]
	}
	return buf[:n]
}
