package snap

import (
	"math/bits"
	"slices"

	"cowl/internal/block"
)

const (
	// pageSize is the unit of staging, bytes.
	pageSize    = 4096
	pageSectors = pageSize / block.SectorSize

	// batchBytes is how much a generation may make a commit read and copy, for
	// each store: its pages, rounded out to the largest chunk.
	batchBytes = 8 << 20

	// stageBytes is the same for all generations together. Writers wait when
	// it is reached.
	stageBytes = 4 * batchBytes
)

// page is a piece of the origin that was written and is not on the device
// yet. Bit i of mask says that sector i is valid.
type page struct {
	mask uint8
	data [pageSize]byte
}

// generation is what one commit takes: the writes that came between two
// moments, with the snapshots that existed then. A snapshot that is created
// later has them in its content; an earlier one does not.
type generation struct {
	seq    uint64
	pages  map[int64]*page // by page number
	reqs   []*request      // made after the pages
	weight int64           // bytes, see batchBytes
	last   int64           // the chunk that was weighed last
	sealed bool            // takes nothing more
	snaps  []*Snapshot     // valid once sealed
}

// add puts as much of a write as fits a batch into the generation and returns
// how much that is.
func (g *generation) add(c change, chunk int64, fresh func() *page) int64 {
	off := c.off
	for off < c.end() && g.weight < batchBytes {
		no, start := off/pageSize, off%pageSize
		n := min(pageSize-start, c.end()-off)
		p := g.pages[no]
		if p == nil {
			p = fresh()
			g.pages[no] = p
			if at := off / chunk; at != g.last {
				g.weight, g.last = g.weight+chunk, at
			}
		}
		copy(p.data[start:], c.data[off-c.off:][:n])
		first, sectors := start/block.SectorSize, n/block.SectorSize
		p.mask |= uint8((1<<sectors - 1) << first)
		off += n
	}
	return off - c.off
}

// numbers returns the pages' numbers in ascending order.
func (g *generation) numbers() []int64 {
	list := make([]int64, 0, len(g.pages))
	for no := range g.pages {
		list = append(list, no)
	}
	slices.Sort(list)
	return list
}

// stretches calls f for each run of valid sectors of the pages, given in
// ascending order, with the data, in ascending order; a run ends at its page's end.
func (g *generation) stretches(pages []int64, f func(off int64, data []byte)) {
	for _, no := range pages {
		p := g.pages[no]
		for mask, base := p.mask, 0; mask != 0; {
			skip := bits.TrailingZeros8(mask)
			n := bits.TrailingZeros8(^(mask >> skip))
			from := (base + skip) * block.SectorSize
			f(no*pageSize+int64(from), p.data[from:from+n*block.SectorSize])
			base += skip + n
			mask = mask >> skip >> n
		}
	}
}

// patch is staged data on its way into a reader's buffer.
type patch struct {
	off  int64
	data []byte
}

// staged returns copies of what generations before the given one hold of a
// range, oldest first. A reader takes them, reads the device, and lays them over:
// what is committed in between is then in both.
func (c *committer) staged(off, end int64, before uint64) []patch {
	if c.pages.Load() == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var patches []patch
	for _, g := range c.gens {
		if g.seq >= before {
			break
		}
		g.stretches(g.within(off, end), func(at int64, data []byte) {
			from, to := max(at, off), min(at+int64(len(data)), end)
			if from < to {
				patches = append(patches, patch{from, slices.Clone(data[from-at : to-at])})
			}
		})
	}
	return patches
}

// within returns the numbers of the pages that touch a range, in ascending order.
func (g *generation) within(off, end int64) []int64 {
	var list []int64
	for no := off / pageSize; no*pageSize < end; no++ {
		if g.pages[no] != nil {
			list = append(list, no)
		}
	}
	return list
}

// overlaps reports whether a staged page touches a range. A write that finds
// one must be staged behind it, or the commit would undo it.
func (c *committer) overlaps(off, end int64) bool {
	if c.pages.Load() == 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, g := range c.gens {
		if len(g.within(off, end)) > 0 {
			return true
		}
	}
	return false
}

// readBelow reads the device with what generations before the given one hold.
func (o *Origin) readBelow(p []byte, off int64, before uint64) (int, error) {
	patches := o.commit.staged(off, off+int64(len(p)), before)
	n, err := o.dev.ReadAt(p, off)
	for _, s := range patches {
		copy(p[s.off-off:], s.data)
	}
	return n, err
}
