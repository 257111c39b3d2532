package forecast

import (
	"math"
	"math/bits"
	"slices"
	"time"
)

// Area is how often a piece of a volume was written to, as the kernel's
// statistics count.
type Area struct{ Writes, Bytes int64 }

func (a Area) plus(b Area) Area { return Area{a.Writes + b.Writes, a.Bytes + b.Bytes} }

// Areas does a Recorder's work for volumes whose single writes cannot be seen:
// it is told how often each of their areas was written to. Which chunks of an
// area that were is not known, so its samples have bounds. Only chunks not
// smaller than an area are counted exactly.
//
// It is not safe for parallel use.
type Areas struct {
	slot time.Duration
	past history[[]Area]
}

// NewAreas is for a volume that is divided into areas of areaBytes, a power of
// 2. The last one may be shorter. A volume of which only the totals are known is
// one area. known is what is known already, nil if nothing is.
func NewAreas(areaBytes, size int64, slot time.Duration, known *Pattern) *Areas {
	a := &Areas{slot: slot}
	a.past.join = joinAreas
	a.past.sample = func(list []Area) Sample { return sampleAreas(list, areaBytes, size) }
	if known != nil && known.Slot == slot {
		a.past.load(known)
	}
	return a
}

// Step ends a slot in which the areas were written to as the list says, which
// is Areas' from now on.
func (a *Areas) Step(list []Area) { a.past.step(list) }

// Pattern returns what is known by now.
func (a *Areas) Pattern() *Pattern { return a.past.pattern(a.slot) }

func joinAreas(a, b []Area) []Area {
	if len(a) < len(b) {
		a, b = b, a
	}
	out := slices.Clone(a)
	for i := range b {
		out[i] = out[i].plus(b[i])
	}
	return out
}

func sampleAreas(list []Area, areaBytes, size int64) Sample {
	out := Sample{Least: new(Counts), Most: new(Counts)}
	for k := range Sizes {
		n := boundAreas(list, areaBytes, size, ChunkBytes(k))
		if k > 0 { // half as small, at least as many
			n.least, n.most = min(n.least, out.Least[k-1]), min(n.most, out.Most[k-1])
			n.likely = min(n.likely, out.Count[k-1])
		}
		out.Least[k], out.Count[k], out.Most[k] = n.least, min(max(n.likely, n.least), n.most), n.most
	}
	return out
}

// bounds of a number of chunks.
type bounds struct{ least, likely, most int64 }

func boundAreas(list []Area, areaBytes, size, chunk int64) bounds {
	if chunk >= areaBytes && len(list) > 1 {
		n := touched(list, bits.TrailingZeros64(uint64(chunk/areaBytes)))
		return bounds{n, n, n}
	}
	var sum bounds
	for i, a := range list {
		if a.Writes <= 0 {
			continue
		}
		length := min(areaBytes, size-int64(i)*areaBytes)
		one := a.bound(float64((length+chunk-1)/chunk), float64(chunk))
		sum.least, sum.likely, sum.most = sum.least+one.least, sum.likely+one.likely, sum.most+one.most
	}
	return sum
}

// touched counts the groups of 2^shift areas that were written to.
func touched(list []Area, shift int) (n int64) {
	last := -1
	for i, a := range list {
		if a.Writes > 0 && i>>shift != last {
			last = i >> shift
			n++
		}
	}
	return n
}

// bound bounds how many of an area's chunks its writes have touched.
func (a Area) bound(chunks, chunk float64) bounds {
	const page, sector = 1 << pageShift, 512
	writes, bytes := float64(a.Writes), float64(a.Bytes)
	mean := bytes / writes
	// One of them is at least as long as the mean. A write of n sectors may
	// touch one chunk more than it fills, at either end; file systems write whole
	// pages, which limits where it can begin.
	least := min(chunks, max(1, math.Ceil(mean/chunk)))
	most := min(chunks, max(least, (bytes-sector*writes)/chunk+2*writes))
	touches := writes + max(0, bytes-page*writes)/chunk
	// As if each went to a chunk at random: some go where others went.
	likely := chunks * (1 - math.Exp(-touches/chunks))
	return bounds{int64(least), int64(likely + 0.5), int64(math.Ceil(most))}
}
