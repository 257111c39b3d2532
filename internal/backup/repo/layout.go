package repo

import (
	"math/bits"

	"cowl/internal/errs"
)

// Layout says how an image is cut: into segments, each of which is stored as
// one object, and groups of segments, each of which has one index. The last of
// each may be shorter. All in bytes; Segment and Group are powers of two.
type Layout struct {
	Bytes   int64 `json:"bytes"` // of the image
	Segment int64 `json:"segment_bytes"`
	Group   int64 `json:"group_bytes"`
}

// Bounds of layouts. A group of 16 MiB is what kopia takes into memory to read
// a byte of it; there are no more than maxGroups of them where larger ones can
// help that, so that an image's top index stays small enough to be held.
const (
	MinSegment     = 4 << 10
	MaxSegment     = 4 << 20
	DefaultSegment = 64 << 10
	minGroup       = 16 << 20
	maxGroups      = 1 << 16
	maxGroup       = 1 << 40
)

// NewLayout returns the layout of an image in segments of the given size.
func NewLayout(bytes, segment int64) Layout {
	l := Layout{Bytes: bytes, Segment: segment, Group: max(minGroup, segment)}
	for l.Groups() > maxGroups {
		l.Group *= 2
	}
	return l
}

// Validate checks a layout that comes from a repository.
func (l Layout) Validate() error {
	switch {
	case l.Bytes <= 0:
		return errs.E(errs.Corrupt, "image of %d bytes", l.Bytes)
	case !isPower(l.Segment) || l.Segment < MinSegment || l.Segment > MaxSegment:
		return errs.E(errs.Corrupt, "segments of %d bytes", l.Segment)
	case !isPower(l.Group) || l.Group < l.Segment || l.Group > maxGroup:
		return errs.E(errs.Corrupt, "groups of %d bytes", l.Group)
	case l.Groups() > 16*maxGroups:
		return errs.E(errs.Corrupt, "%d groups", l.Groups())
	}
	return nil
}

func isPower(n int64) bool { return n > 0 && bits.OnesCount64(uint64(n)) == 1 }

// Groups is how many groups there are.
func (l Layout) Groups() int64 { return ceil(l.Bytes, l.Group) }

// Segments is how many segments there are.
func (l Layout) Segments() int64 { return ceil(l.Bytes, l.Segment) }

func ceil(n, unit int64) int64 { return n/unit + min(n%unit, 1) }

// groupLen is the length of a group in bytes.
func (l Layout) groupLen(g int64) int64 { return min(l.Group, l.Bytes-g*l.Group) }

// segments returns the numbers [from, to) of a group's segments.
func (l Layout) segments(g int64) (from, to int64) {
	from = g * (l.Group / l.Segment)
	return from, from + ceil(l.groupLen(g), l.Segment)
}

// segmentLen is the length of a segment in bytes.
func (l Layout) segmentLen(s int64) int64 { return min(l.Segment, l.Bytes-s*l.Segment) }

// Set is a set of an image's segments, one bit each: 2 MiB for a TiB in
// segments of 64 KiB.
type Set struct {
	words []uint64
	n     int64
}

// NewSet returns an empty set of n segments.
func NewSet(n int64) *Set { return &Set{words: make([]uint64, ceil(n, 64)), n: n} }

// AddRange adds the segments that the bytes [off, off+length) touch. What lies
// behind the last segment is left out.
func (s *Set) AddRange(l Layout, off, length int64) {
	if length <= 0 {
		return
	}
	for i, to := off/l.Segment, min(ceil(off+length, l.Segment), s.n); i < to; {
		if i%64 == 0 && to-i >= 64 {
			s.words[i/64] = ^uint64(0)
			i += 64
			continue
		}
		s.words[i/64] |= 1 << (i % 64)
		i++
	}
}

// Has tells whether a segment is in the set.
func (s *Set) Has(i int64) bool { return s.words[i/64]&(1<<(i%64)) != 0 }

// any tells whether any of the segments [from, to) is in the set.
func (s *Set) any(from, to int64) bool { return s.next(from, to) < to }

// next returns the first segment of the set in [from, to), or to.
func (s *Set) next(from, to int64) int64 {
	for i := from; i < to; {
		if w := s.words[i/64] >> (i % 64); w != 0 {
			return min(i+int64(bits.TrailingZeros64(w)), to)
		}
		i = (i/64 + 1) * 64
	}
	return to
}

// end returns the first segment from i on, up to to, that is not in the set.
func (s *Set) end(i, to int64) int64 {
	for i < to && s.Has(i) {
		i++
	}
	return i
}

// Count is how many segments are in the set.
func (s *Set) Count() int64 {
	var n int64
	for _, w := range s.words {
		n += int64(bits.OnesCount64(w))
	}
	return n
}

// bytes is how many bytes the set's segments have.
func (s *Set) bytes(l Layout) int64 {
	n := s.Count() * l.Segment
	if last := s.n - 1; last >= 0 && s.Has(last) {
		n -= l.Segment - l.segmentLen(last)
	}
	return n
}
