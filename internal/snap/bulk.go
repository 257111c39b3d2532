package snap

import (
	"math/bits"
	"slices"

	"cowl/internal/format/dmsnap"
)

// pile is exceptions on their way into an index, each in one number: sorted,
// they go in many times faster than one by one in the order of a store, where
// each would be a miss of the processor's caches.
type pile struct {
	list, spare []uint64 // the origin chunk above the COW chunk
	bits        int      // of a COW chunk
}

// newPile returns a pile for exceptions with COW chunks below limit.
func newPile(limit uint64) *pile { return &pile{bits: bits.Len64(limit - 1)} }

// reserve makes room for n more.
func (p *pile) reserve(n int) {
	if cap(p.list)-len(p.list) < n {
		p.list = slices.Grow(p.list, max(n, len(p.list)))
	}
}

// add reports false if the numbers are too large for the pile.
func (p *pile) add(e dmsnap.Exception) bool {
	if bits.Len64(e.Old)+p.bits > 64 {
		return false
	}
	p.list = append(p.list, e.Old<<p.bits|e.New)
	return true
}

func (p *pile) old(i int) uint64 { return p.list[i] >> p.bits }
func (p *pile) new(i int) uint64 { return p.list[i] & (1<<p.bits - 1) }

// sort sorts by origin chunk: a radix sort of 11 bits at a time.
func (p *pile) sort() {
	if slices.IsSorted(p.list) {
		return
	}
	var all uint64
	for _, v := range p.list {
		all |= v
	}
	if cap(p.spare) < len(p.list) {
		p.spare = make([]uint64, cap(p.list))
	}
	from, to := p.list, p.spare[:len(p.list)]
	const digit = 11
	for shift := p.bits; shift < bits.Len64(all); shift += digit {
		var at [1 << digit]int
		for _, v := range from {
			at[v>>shift%(1<<digit)]++
		}
		sum := 0
		for d, n := range at {
			at[d], sum = sum, sum+n
		}
		for _, v := range from {
			d := v >> shift % (1 << digit)
			to[at[d]] = v
			at[d]++
		}
		from, to = to, from
	}
	p.list, p.spare = from, to
}

// insertAll sorts a pile, adds it, all that belong to a leaf at once, and empties
// it. If an origin chunk is excepted already it stops and reports false.
func (x *index) insertAll(p *pile) (twice uint64, ok bool) {
	p.sort()
	var m merger
	for i := 0; i < len(p.list); {
		old := p.old(i)
		gi, g, li := x.seek(old)
		base := old &^ (zone - 1)
		if g == nil || g.from[li]&^(zone-1) != base || len(g.leaf[li]) == leafSize { // a new leaf is due
			if !x.insert(dmsnap.Exception{Old: old, New: p.new(i)}) {
				return old, false
			}
			i++
			continue
		}
		end, l, n := min(base+zone, x.end(gi, li)), g.leaf[li], 1
		for n < leafSize-len(l) && i+n < len(p.list) && p.old(i+n) < end {
			n++
		}
		if taken := m.merge(l, p, i, n); taken < n {
			return p.old(i + taken), false
		}
		g.leaf[li] = m.put(l)
		x.count += n
		i += n
	}
	p.list = p.list[:0]
	return 0, true
}

// end returns where the next leaf begins.
func (x *index) end(gi, li int) uint64 {
	switch {
	case li+1 < len(x.groups[gi].from):
		return x.groups[gi].from[li+1]
	case gi+1 < len(x.from):
		return x.from[gi+1]
	}
	return 1<<64 - 1
}

// merger is the runs of a leaf that is in the making.
type merger struct {
	runs []keyRun
}

// keyRun is n exceptions in one piece, from key on.
type keyRun struct{ key, new, n uint32 }

// merge brings a leaf's entries and n of the pile together, from its element
// first on. It returns how many it took: not all if something is in both, or
// in the pile twice.
func (m *merger) merge(l leaf, p *pile, first, n int) (taken int) {
	m.runs = m.runs[:0]
	news := l.news()
	for i := 0; i < len(l) || taken < n; {
		if taken < n {
			key := uint32(p.old(first+taken) % zone)
			if i == len(l) || key < l.key(i) {
				if !m.push(keyRun{key, uint32(p.new(first + taken)), 1}) {
					return taken
				}
				taken++
				continue
			}
		}
		r := keyRun{l.key(i), news[i], 1}
		if l.isJoined(i) {
			i++
			r.n += l.key(i) - r.key
		}
		i++
		m.push(r)
	}
	return taken
}

// push adds a run behind the last one, and reports false if they overlap.
func (m *merger) push(r keyRun) bool {
	if len(m.runs) > 0 {
		last := &m.runs[len(m.runs)-1]
		switch end := last.key + last.n; {
		case r.key < end:
			return false
		case r.key == end && uint64(r.new) == uint64(last.new)+uint64(last.n):
			last.n += r.n
			return true
		}
	}
	m.runs = append(m.runs, r)
	return true
}

// put writes the runs over a leaf and returns the one that takes its place.
func (m *merger) put(l leaf) leaf {
	n := len(m.runs)
	for _, r := range m.runs {
		if r.n > 1 {
			n++
		}
	}
	if n > cap(l)/2 {
		l = newLeaf(n)
	}
	l = l[:n]
	news, i := l.news(), 0
	for _, r := range m.runs {
		l[i], news[i] = r.key, r.new
		if i++; r.n > 1 {
			l.mark(i - 1)
			l[i], news[i] = r.key+r.n-1, r.new+r.n-1
			i++
		}
	}
	return l
}
