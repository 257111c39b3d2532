package forecast

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
)

// The unit of recording.
const (
	pageShift   = 12
	regionShift = 19
	regionBytes = 1 << regionShift
	regionPages = 1 << (regionShift - pageShift)
)

// kept is how many regions a sketch has at most: with as many the number of
// touched regions is known to about 1/sqrt(kept), 2 %.
const kept = 2048

// everything is the limit of a sketch that leaves nothing out.
const everything = math.MaxUint64

// region is a piece of the volume that was written to. The hash stands for its
// number, of which it is a permutation.
type region struct {
	hash  uint64
	pages [2]uint64 // bit i of word w: page 64*w+i
}

// sketch is what was touched in one window: all regions whose hash is below
// the limit, in order of hash. It is not altered once it is made.
type sketch struct {
	limit   uint64
	regions []region
}

// nothing is the sketch of a window without writes.
var nothing = &sketch{limit: everything}

// newSketch makes a sketch of regions in any order, which it takes over.
func newSketch(limit uint64, regions []region) *sketch {
	slices.SortFunc(regions, func(a, b region) int { return cmp.Compare(a.hash, b.hash) })
	s := &sketch{limit, regions}
	s.trim()
	return s
}

// trim lowers the limit to what there is room for.
func (s *sketch) trim() {
	if len(s.regions) > kept {
		s.limit = s.regions[kept].hash
		s.regions = slices.Clip(slices.Clone(s.regions[:kept]))
	}
}

// join returns the sketch of two windows together.
func join(a, b *sketch) *sketch {
	switch {
	case len(a.regions) == 0 && a.limit == everything:
		return b
	case len(b.regions) == 0 && b.limit == everything:
		return a
	}
	out := &sketch{limit: min(a.limit, b.limit), regions: make([]region, 0, len(a.regions)+len(b.regions))}
	x, y := a.regions, b.regions
	for len(x) > 0 || len(y) > 0 {
		var r region
		switch {
		case len(y) == 0 || len(x) > 0 && x[0].hash < y[0].hash:
			r, x = x[0], x[1:]
		case len(x) == 0 || y[0].hash < x[0].hash:
			r, y = y[0], y[1:]
		default:
			r = x[0]
			r.pages[0] |= y[0].pages[0]
			r.pages[1] |= y[0].pages[1]
			x, y = x[1:], y[1:]
		}
		if r.hash >= out.limit {
			break // all that follow are, too
		}
		out.regions = append(out.regions, r)
	}
	out.regions = slices.Clip(out.regions)
	out.trim()
	return out
}

// sample estimates what was touched, of chunks of each size.
func (s *sketch) sample() Sample {
	var sum Counts
	squares := 0.0 // of the numbers of 4 KiB chunks
	for i := range s.regions {
		n := s.regions[i].chunks()
		for k := range sum {
			sum[k] += n[k]
		}
		squares += float64(n[0]) * float64(n[0])
	}
	if s.limit == everything || sum[0] == 0 {
		return Sample{Count: sum}
	}
	share := float64(s.limit) / math.Pow(2, 64) // of the regions that are here
	// The standard error of a sum over a random sample of this share.
	out := Sample{Error: float32(math.Sqrt((1-share)*squares) / float64(sum[0]))}
	for k := range sum {
		out.Count[k] = int64(float64(sum[k])/share + 0.5)
	}
	return out
}

// folds are the bits that remain when neighbours are counted together.
var folds = [...]uint64{
	0x5555555555555555, 0x1111111111111111, 0x0101010101010101,
	0x0001000100010001, 0x0000000100000001, 0x0000000000000001,
}

// chunks counts the region's touched chunks of each size.
func (r *region) chunks() (n Counts) {
	a, b := r.pages[0], r.pages[1]
	n[0] = int64(bits.OnesCount64(a) + bits.OnesCount64(b))
	for i, mask := range folds {
		a, b = (a|a>>(1<<i))&mask, (b|b>>(1<<i))&mask
		n[i+1] = int64(bits.OnesCount64(a) + bits.OnesCount64(b))
	}
	n[Sizes-1] = 1
	return n
}
