package snap

import (
	"iter"
	"slices"

	"cowl/internal/format/dmsnap"
)

const (
	// leafSize is the most entries that a leaf holds, groupSize the most leaves
	// of a group: an insert moves no more than a few kilobytes, however many
	// exceptions there are.
	leafSize  = 256
	groupSize = 256

	// zone is how many origin chunks a leaf can tell apart: what it covers
	// lies between two multiples of it.
	zone = 1 << 31
)

// index maps origin chunks to COW chunks: a list of groups of leaves, all in
// ascending order. It is not safe for concurrent use.
//
// An exception takes 8 bytes, and what its leaf leaves free of the memory that
// it has, 9 in all. A run of any length, chunks that follow each other on both
// devices, takes two entries.
type index struct {
	from   []uint64 // by group: its first leaf's from
	groups []*group // none is empty
	count  int      // exceptions, not entries
}

// group is neighbouring leaves, leaf i with chunks from from[i] up to
// from[i+1] or its zone's end. None is empty.
type group struct {
	from []uint64
	leaf []leaf
}

// leaf is entries in ascending order of origin chunk. The slice is as long as
// there are entries, and holds their origin chunks, relative to their zone;
// the second half of its capacity, parallel to the first, holds the COW chunks.
//
// An entry that is joined is the first of a run of which the next entry is
// the last; both are in the leaf. Any other is an exception by itself.
type leaf []uint32

// joined is the mark in the entry's origin chunk.
const joined = zone

func (l leaf) news() []uint32 {
	half := cap(l) / 2
	return l[half : half+len(l)]
}

func (l leaf) key(i int) uint32     { return l[i] &^ joined }
func (l leaf) isJoined(i int) bool  { return i >= 0 && i < len(l) && l[i]&joined != 0 }
func (l leaf) endsARun(i int) bool  { return l.isJoined(i - 1) }
func (l leaf) mark(i int)           { l[i] |= joined }
func (l leaf) unmark(i int)         { l[i] &^= joined }
func (l leaf) move(i int, n uint32) { l[i] += n; l.news()[i] += n } // n may be -1: it wraps

// at returns the position of the last entry at or below key, -1 if there is
// none.
func (l leaf) at(key uint32) int {
	lo, hi := 0, len(l)
	for lo < hi {
		if mid := int(uint(lo+hi) / 2); l.key(mid) <= key {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo - 1
}

// has reports whether the entry at i, as found by at, or the run that it begins
// contains key.
func (l leaf) has(i int, key uint32) bool {
	return i >= 0 && (l.key(i) == key || l.isJoined(i))
}

// length returns how many chunks there are from key, which entry i contains, to
// the end of its run.
func (l leaf) length(i int, key uint32) uint64 {
	if l.isJoined(i) {
		return uint64(l.key(i+1)-key) + 1
	}
	return 1
}

// insert puts an entry at i. The leaf that is returned takes the place of l.
func (l leaf) insert(i int, key, new uint32) leaf {
	n := len(l)
	if n == cap(l)/2 {
		l = copyOf(l, l.news())
	}
	l = l[:n+1]
	news := l.news()
	copy(l[i+1:], l[i:n])
	copy(news[i+1:], news[i:n])
	l[i], news[i] = key, new
	return l
}

// newLeaf returns an empty leaf with room for n entries, an eighth more, and
// what the allocator adds to that.
func newLeaf(n int) leaf {
	return append(leaf(nil), make(leaf, 2*(n+max(2, n/8)))...)[:0]
}

// copyOf returns entries as a leaf of their own.
func copyOf(keys, news []uint32) leaf {
	l := newLeaf(len(keys))[:len(keys)]
	copy(l, keys)
	copy(l.news(), news)
	return l
}

func (l leaf) delete(i int) leaf {
	news := l.news()
	copy(news[i:], news[i+1:])
	copy(l[i:], l[i+1:])
	return l[:len(l)-1]
}

// add makes an exception of key, which entry i is the last one below: by
// itself, at the end of a run, at the beginning of one, or between two.
func (l leaf) add(i int, key, new uint32) leaf {
	news := l.news()
	after := i >= 0 && l.key(i)+1 == key && uint64(news[i])+1 == uint64(new)
	before := i+1 < len(l) && l.key(i+1) == key+1 && uint64(news[i+1]) == uint64(new)+1
	switch {
	case after && before:
		if l.isJoined(i + 1) {
			l = l.delete(i + 1)
		}
		if l.endsARun(i) {
			l = l.delete(i)
		} else {
			l.mark(i)
		}
	case after && l.endsARun(i):
		l.move(i, 1)
	case after:
		l.mark(i)
		l = l.insert(i+1, key, new)
	case before && l.isJoined(i+1):
		l.move(i+1, ^uint32(0))
	case before:
		l = l.insert(i+1, key|joined, new)
	default:
		l = l.insert(i+1, key, new)
	}
	return l
}

// remove takes out key, which entry i contains.
func (l leaf) remove(i int, key uint32) leaf {
	switch begins := l.isJoined(i); {
	case !begins && !l.endsARun(i):
		return l.delete(i)
	case begins && l.key(i) == key && l.key(i+1) == key+1: // one of two, the other stays
		return l.delete(i)
	case begins && l.key(i) == key:
		l.move(i, 1)
		return l
	case !begins && l.key(i-1)+1 == key:
		l.unmark(i - 1)
		return l.delete(i)
	case !begins:
		l.move(i, ^uint32(0))
		return l
	}
	first, new := l.key(i), l.news()[i]
	if l.key(i+1) > key+1 {
		l = l.insert(i+1, key+1|joined, new+(key+1-first))
	}
	if first+1 < key {
		return l.insert(i+1, key-1, new+(key-1-first))
	}
	l.unmark(i)
	return l
}

// seek returns the place of the last leaf that begins at or below old, nil if
// there is none.
func (x *index) seek(old uint64) (gi int, g *group, li int) {
	gi = upper(x.from, old) - 1
	if gi < 0 {
		return 0, nil, 0
	}
	g = x.groups[gi]
	return gi, g, upper(g.from, old) - 1
}

// upper returns the position of the first element above v.
func upper(list []uint64, v uint64) int {
	lo, hi := 0, len(list)
	for lo < hi {
		if mid := int(uint(lo+hi) / 2); list[mid] <= v {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// find returns the first exception at or above old and how many there are
// from it on, itself included, that lie in one piece on both devices.
// Neighbours of different leaves are told apart.
func (x *index) find(old uint64) (e dmsnap.Exception, n uint64, ok bool) {
	gi, g, li := x.seek(old)
	if g != nil {
		if base := old &^ (zone - 1); base == g.from[li]&^(zone-1) {
			l, key := g.leaf[li], uint32(old-base)
			i := l.at(key)
			if l.has(i, key) {
				return dmsnap.Exception{Old: old, New: uint64(l.news()[i] + (key - l.key(i)))}, l.length(i, key), true
			}
			if i+1 < len(l) {
				return g.entry(li, i+1), l.length(i+1, l.key(i+1)), true
			}
		}
		if li++; li == len(g.leaf) {
			gi, li = gi+1, 0
		}
	}
	if gi == len(x.groups) {
		return dmsnap.Exception{}, 0, false
	}
	g = x.groups[gi]
	return g.entry(li, 0), g.leaf[li].length(0, g.leaf[li].key(0)), true
}

// entry returns the exception at a place.
func (g *group) entry(li, i int) dmsnap.Exception {
	l := g.leaf[li]
	return dmsnap.Exception{Old: g.from[li]&^(zone-1) + uint64(l.key(i)), New: uint64(l.news()[i])}
}

// get returns the COW chunk of an origin chunk.
func (x *index) get(old uint64) (chunk uint64, ok bool) {
	e, _, ok := x.find(old)
	if !ok || e.Old != old {
		return 0, false
	}
	return e.New, true
}

// insert adds an exception and reports false if its origin chunk has one.
// The new chunk must be below 2^32.
func (x *index) insert(e dmsnap.Exception) bool {
	gi, g, li := x.seek(e.Old)
	base := e.Old &^ (zone - 1)
	if g == nil || g.from[li]&^(zone-1) != base {
		if g != nil {
			li++
		}
		x.insertLeaf(gi, li, base, e)
		return true
	}
	key := uint32(e.Old - base)
	l := g.leaf[li]
	i := l.at(key)
	if l.has(i, key) {
		return false
	}
	if len(l) == leafSize {
		x.split(gi, li)
		return x.insert(e)
	}
	g.leaf[li] = l.add(i, key, uint32(e.New))
	x.count++
	return true
}

// insertLeaf puts a leaf with e, for chunks at or above from, at place li of a
// group, which may be the first of all.
func (x *index) insertLeaf(gi, li int, from uint64, e dmsnap.Exception) {
	l := leaf(nil).insert(0, uint32(e.Old&(zone-1)), uint32(e.New))
	x.count++
	if len(x.groups) == 0 {
		x.from, x.groups = []uint64{from}, []*group{{from: []uint64{from}, leaf: []leaf{l}}}
		return
	}
	x.putLeaf(gi, li, from, l)
}

func (x *index) putLeaf(gi, li int, from uint64, l leaf) {
	g := x.groups[gi]
	if len(g.leaf) == groupSize {
		const half = groupSize / 2
		right := &group{from: slices.Clone(g.from[half:]), leaf: slices.Clone(g.leaf[half:])}
		clear(g.leaf[half:])
		g.from, g.leaf = g.from[:half], g.leaf[:half]
		x.groups = slices.Insert(x.groups, gi+1, right)
		x.from = slices.Insert(x.from, gi+1, right.from[0])
		if li > half {
			gi, g, li = gi+1, right, li-half
		}
	}
	g.from, g.leaf = slices.Insert(g.from, li, from), slices.Insert(g.leaf, li, l)
	x.from[gi] = g.from[0]
}

// split moves the upper half of a leaf into one of its own.
func (x *index) split(gi, li int) {
	g := x.groups[gi]
	l := g.leaf[li]
	half := len(l) / 2
	if l.endsARun(half) {
		half++
	}
	from := g.from[li]&^(zone-1) + uint64(l.key(half))
	right := copyOf(l[half:], l.news()[half:])
	g.leaf[li] = copyOf(l[:half], l.news())
	x.putLeaf(gi, li+1, from, right)
}

// remove takes an origin chunk out and reports whether it was in.
func (x *index) remove(old uint64) bool {
	gi, g, li := x.seek(old)
	base := old &^ (zone - 1)
	if g == nil || g.from[li]&^(zone-1) != base {
		return false
	}
	key := uint32(old - base)
	l := g.leaf[li]
	i := l.at(key)
	if !l.has(i, key) {
		return false
	}
	if len(l) > leafSize-2 && l.isJoined(i) { // it may fall in two
		x.split(gi, li)
		return x.remove(old)
	}
	l = l.remove(i, key)
	g.leaf[li] = l
	x.count--
	if len(l) == 0 {
		x.dropLeaf(gi, li)
	}
	return true
}

func (x *index) dropLeaf(gi, li int) {
	g := x.groups[gi]
	g.from, g.leaf = slices.Delete(g.from, li, li+1), slices.Delete(g.leaf, li, li+1)
	if len(g.leaf) > 0 {
		x.from[gi] = g.from[0]
		return
	}
	x.from, x.groups = slices.Delete(x.from, gi, gi+1), slices.Delete(x.groups, gi, gi+1)
}

// last returns the highest origin chunk, false if there is none.
func (x *index) last() (uint64, bool) {
	if len(x.groups) == 0 {
		return 0, false
	}
	g := x.groups[len(x.groups)-1]
	li := len(g.leaf) - 1
	return g.entry(li, len(g.leaf[li])-1).Old, true
}

// all walks the exceptions in order of origin chunk.
func (x *index) all() iter.Seq[dmsnap.Exception] {
	return func(yield func(dmsnap.Exception) bool) {
		for e, n, ok := x.find(0); ok; e, n, ok = x.find(e.Old) {
			for ; n > 0; n-- {
				if !yield(e) {
					return
				}
				e.Old, e.New = e.Old+1, e.New+1
			}
		}
	}
}
