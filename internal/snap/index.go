package snap

import (
	"iter"
	"slices"
	"sort"

	"cowl/internal/format/dmsnap"
)

// leafSize is the most exceptions that a leaf holds. Leaves split in halves,
// so that random inserts leave them 69 % full on average: 11.6 bytes an
// exception; ascending inserts fill them.
const leafSize = 256

// index maps origin chunks to COW chunks: a list of leaves in ascending
// order, each a sorted list of pairs. It is not safe for concurrent use.
type index struct {
	leaves []*leaf // none is empty
	count  int
}

// leaf holds chunks from base to base + 2^32 - 1.
type leaf struct {
	base uint64
	n    int
	old  [leafSize]uint32 // relative to base, ascending
	new  [leafSize]uint32
}

func (l *leaf) first() uint64 { return l.base + uint64(l.old[0]) }
func (l *leaf) last() uint64  { return l.base + uint64(l.old[l.n-1]) }

// search returns the position of the first entry that is not below old.
func (l *leaf) search(old uint64) int {
	if old < l.base {
		return 0
	}
	if old-l.base > 1<<32-1 {
		return l.n
	}
	rel := uint32(old - l.base)
	i, _ := slices.BinarySearch(l.old[:l.n], rel)
	return i
}

// leafOf returns the index of the last leaf that begins at or below old, -1
// if there is none.
func (x *index) leafOf(old uint64) int {
	return sort.Search(len(x.leaves), func(i int) bool { return x.leaves[i].first() > old }) - 1
}

// get returns the COW chunk of an origin chunk.
func (x *index) get(old uint64) (chunk uint64, ok bool) {
	i := x.leafOf(old)
	if i < 0 {
		return 0, false
	}
	l := x.leaves[i]
	if j := l.search(old); j < l.n && l.base+uint64(l.old[j]) == old {
		return uint64(l.new[j]), true
	}
	return 0, false
}

// next returns the first exception at or above old.
func (x *index) next(old uint64) (e dmsnap.Exception, ok bool) {
	i := max(x.leafOf(old), 0)
	for ; i < len(x.leaves); i++ {
		if l := x.leaves[i]; l.n > 0 {
			if j := l.search(old); j < l.n {
				return dmsnap.Exception{Old: l.base + uint64(l.old[j]), New: uint64(l.new[j])}, true
			}
		}
	}
	return dmsnap.Exception{}, false
}

// insert adds an exception and reports false if its origin chunk has one.
// The new chunk must be below 2^32.
func (x *index) insert(e dmsnap.Exception) bool {
	i := x.leafOf(e.Old)
	if i < 0 {
		i = 0
	}
	if i == len(x.leaves) || !x.leaves[i].holds(e.Old) {
		return x.insertLeaf(i, e)
	}
	l := x.leaves[i]
	j := l.search(e.Old)
	if j < l.n && l.base+uint64(l.old[j]) == e.Old {
		return false
	}
	if l.n == leafSize {
		if j == l.n && i == len(x.leaves)-1 { // ascending: leave the full leaf as it is
			return x.insertLeaf(i, e)
		}
		right := l.split()
		x.leaves = slices.Insert(x.leaves, i+1, right)
		if j > l.n {
			l, j = right, j-l.n
		}
	}
	l.insertAt(j, e)
	x.count++
	return true
}

// insertLeaf puts e into a leaf of its own, before or behind leaf i.
func (x *index) insertLeaf(i int, e dmsnap.Exception) bool {
	l := &leaf{base: e.Old &^ (1<<31 - 1), n: 1}
	l.old[0], l.new[0] = uint32(e.Old-l.base), uint32(e.New)
	if i < len(x.leaves) && x.leaves[i].first() < e.Old {
		i++
	}
	x.leaves = slices.Insert(x.leaves, i, l)
	x.count++
	return true
}

// holds reports whether old can be stored relative to the leaf's base.
func (l *leaf) holds(old uint64) bool { return old >= l.base && old-l.base < 1<<32 }

func (l *leaf) insertAt(j int, e dmsnap.Exception) {
	copy(l.old[j+1:l.n+1], l.old[j:l.n])
	copy(l.new[j+1:l.n+1], l.new[j:l.n])
	l.old[j], l.new[j] = uint32(e.Old-l.base), uint32(e.New)
	l.n++
}

// split moves the upper half of a full leaf into a new one.
func (l *leaf) split() *leaf {
	r := &leaf{base: l.base, n: leafSize / 2}
	copy(r.old[:], l.old[leafSize/2:])
	copy(r.new[:], l.new[leafSize/2:])
	l.n = leafSize / 2
	return r
}

// remove takes an origin chunk out and reports whether it was in.
func (x *index) remove(old uint64) bool {
	i := x.leafOf(old)
	if i < 0 {
		return false
	}
	l := x.leaves[i]
	j := l.search(old)
	if j == l.n || l.base+uint64(l.old[j]) != old {
		return false
	}
	copy(l.old[j:], l.old[j+1:l.n])
	copy(l.new[j:], l.new[j+1:l.n])
	l.n--
	x.count--
	if l.n == 0 {
		x.leaves = slices.Delete(x.leaves, i, i+1)
	}
	return true
}

// last returns the highest origin chunk, false if there is none.
func (x *index) last() (uint64, bool) {
	if len(x.leaves) == 0 {
		return 0, false
	}
	return x.leaves[len(x.leaves)-1].last(), true
}

// all walks the exceptions in order of origin chunk.
func (x *index) all() iter.Seq[dmsnap.Exception] {
	return func(yield func(dmsnap.Exception) bool) {
		for _, l := range x.leaves {
			for j := range l.n {
				if !yield(dmsnap.Exception{Old: l.base + uint64(l.old[j]), New: uint64(l.new[j])}) {
					return
				}
			}
		}
	}
}
