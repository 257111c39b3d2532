package forecast

import (
	"sync"
	"sync/atomic"
	"time"
)

// Slot is the length of a Recorder's slots: as often its owner calls Step.
const Slot = time.Second

// Recorder sees every write to a volume. The zero Recorder is ready.
type Recorder struct {
	live atomic.Pointer[table] // takes what is written now; nil until something is

	mu    sync.Mutex
	spare *table // empty, for the next slot
	idle  int    // slots without a write
	past  *history[*sketch]
}

// NewRecorder returns a Recorder that goes on from what is known already, nil
// if nothing is.
func NewRecorder(known *Pattern) *Recorder {
	r := &Recorder{}
	r.history().load(known)
	return r
}

// history returns the past. The caller holds mu, or has the only reference.
func (r *Recorder) history() *history[*sketch] {
	if r.past == nil {
		r.past = &history[*sketch]{join: join, sample: (*sketch).sample}
	}
	return r.past
}

// Measures of a table. Half empty, it finds a place within a few looks.
const (
	tableCells = 8192
	tableFull  = tableCells / 2
	tableMore  = tableCells / 16
	maxLooks   = 64
)

// table is a set of regions to which writers add without locks. It may lose a
// few that come while it is replaced: it feeds an estimate.
type table struct {
	limit atomic.Uint64 // regions with hashes from here on are left out
	used  atomic.Int64
	cells [tableCells]cell
}

type cell struct {
	hash  atomic.Uint64 // 0: free
	pages [2]atomic.Uint64
}

func newTable(limit uint64) *table {
	t := new(table)
	t.limit.Store(limit)
	return t
}

// mix is a permutation that looks like a random one (the finalizer of
// splitmix64). 0 marks free cells: the one region that it would fall to is 1.
func mix(no uint64) uint64 {
	h := no + 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return max(1, h^h>>31)
}

// Touch records a write, in bytes. It may be called by any number of
// goroutines at once, does not wait, and allocates nothing but the first
// table.
func (r *Recorder) Touch(off, length int64) {
	t := r.live.Load()
	if t == nil {
		t = r.begin()
	}
	for length > 0 {
		at := off & (regionBytes - 1)
		n := min(length, regionBytes-at)
		if h := mix(uint64(off >> regionShift)); h < t.limit.Load() {
			if t.add(h, uint(at>>pageShift), uint((at+n-1)>>pageShift)) {
				r.thin(t)
				t = r.live.Load()
				if t == nil {
					return // unused for so long that Step took it away
				}
			}
		}
		off, length = off+n, length-n
	}
}

// begin makes the first table.
func (r *Recorder) begin() *table {
	t := newTable(everything)
	if !r.live.CompareAndSwap(nil, t) {
		if other := r.live.Load(); other != nil {
			return other
		}
	}
	return t
}

// add records pages first to last of a region. full says that the table should
// be replaced by a thinner one.
//
// A full table leaves out half of the regions at once, and half of the rest
// whenever it has filled a little more, until it is replaced: so it never runs
// over, however long that takes.
func (t *table) add(h uint64, first, last uint) (full bool) {
	c, fresh := t.find(h)
	if c == nil {
		return true
	}
	if first < 64 {
		set(&c.pages[0], first, min(last, 63))
	}
	if last >= 64 {
		set(&c.pages[1], max(first, 64)-64, last-64)
	}
	if !fresh {
		return false
	}
	used := t.used.Add(1)
	if used >= tableFull && (used-tableFull)%tableMore == 0 {
		t.limit.Store(t.limit.Load() / 2)
	}
	return used >= tableFull
}

// find returns the region's cell, a free one if it has none, and nil if there
// is none nearby.
func (t *table) find(h uint64) (c *cell, fresh bool) {
	for i, looks := h, 0; looks < maxLooks; i, looks = i+1, looks+1 {
		c := &t.cells[i%tableCells]
		switch have := c.hash.Load(); have {
		case h:
			return c, false
		case 0:
			if c.hash.CompareAndSwap(0, h) {
				return c, true
			}
			if c.hash.Load() == h {
				return c, false
			}
		}
	}
	return nil, false
}

// set sets bits first to last. What is written again and again only looks.
func set(word *atomic.Uint64, first, last uint) {
	mask := ^uint64(0) >> (63 - last + first) << first
	if word.Load()&mask != mask {
		word.Or(mask)
	}
}

// thin replaces a full table by one that leaves out half of the regions that
// it had. Who comes second leaves it to the first.
func (r *Recorder) thin(t *table) {
	if !r.mu.TryLock() {
		return
	}
	defer r.mu.Unlock()
	if r.live.Load() != t {
		return
	}
	next := r.take(t.limit.Load())
	next.absorb(t)
	r.live.Store(next)
	next.lower(t.limit.Load()) // which may have fallen meanwhile
	next.absorb(t)             // what came meanwhile
	r.spare = t.clear()
}

// lower makes the limit one that is at most as high.
func (t *table) lower(limit uint64) {
	for old := t.limit.Load(); old > limit && !t.limit.CompareAndSwap(old, limit); {
		old = t.limit.Load()
	}
}

// absorb adds what another table holds.
func (t *table) absorb(from *table) {
	for _, x := range from.regions() {
		c, fresh := t.find(x.hash)
		if c == nil {
			continue
		}
		c.pages[0].Or(x.pages[0])
		c.pages[1].Or(x.pages[1])
		if fresh {
			t.used.Add(1)
		}
	}
}

// take returns an empty table. The caller holds mu.
func (r *Recorder) take(limit uint64) *table {
	t := r.spare
	if r.spare = nil; t == nil {
		return newTable(limit)
	}
	t.limit.Store(limit)
	return t
}

// regions returns what the table holds, in no order.
func (t *table) regions() []region {
	out := make([]region, 0, tableFull)
	limit := t.limit.Load()
	for i := range t.cells {
		c := &t.cells[i]
		if h := c.hash.Load(); h != 0 && h < limit {
			out = append(out, region{h, [2]uint64{c.pages[0].Load(), c.pages[1].Load()}})
		}
	}
	return out
}

// clear empties a table that is not live any more. A write that still holds it
// leaves something behind for the next slot, which does no harm.
func (t *table) clear() *table {
	for i := range t.cells {
		c := &t.cells[i]
		if c.hash.Load() != 0 {
			c.hash.Store(0)
			c.pages[0].Store(0)
			c.pages[1].Store(0)
		}
	}
	t.used.Store(0)
	return t
}

// idleSlots is after how many slots without a write the tables are given back.
const idleSlots = 64

// Step ends a slot.
func (r *Recorder) Step() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history().step(r.cut())
}

// cut takes what the slot that ends has recorded. The caller holds mu.
func (r *Recorder) cut() *sketch {
	t := r.live.Load()
	if t == nil {
		return nothing
	}
	used := t.used.Load()
	if used == 0 {
		if r.idle++; r.idle > idleSlots {
			r.live.Store(nil)
			r.spare, r.idle = nil, 0
		}
		return nothing
	}
	r.idle = 0
	r.live.Store(r.take(nextLimit(t.limit.Load(), used)))
	s := newSketch(t.limit.Load(), t.regions())
	r.spare = t.clear()
	return s
}

// nextLimit guesses of how much of the next slot there will be room for: of as
// much as of the last one, so that it need not be found out by thinning again.
func nextLimit(limit uint64, used int64) uint64 {
	next := float64(limit) * kept / float64(min(kept, used))
	if next >= everything/2 {
		return everything
	}
	return uint64(next)
}

// Pattern returns what is known by now.
func (r *Recorder) Pattern() *Pattern {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.history().pattern(Slot)
}
