package repo

import (
	"bytes"
	"context"
	"math/rand/v2"

	"cowl/internal/block"
	"cowl/internal/errs"
)

// Sample compares n segments that are not in changed with what the image has of
// them, and returns how many it could. One that differs is errs.Conflict: the image
// is not of what the device held when the changes began, or they are not all.
//
// The first segment and the last are among them, where file systems keep
// what changes with every mount; the others are random, as far as possible of
// groups that are not known to hold only zeroes.
func (m *Image) Sample(ctx context.Context, dev block.Device, changed *Set, n int) (compared int, err error) {
	for _, s := range m.sampled(min(m.layout.Segments(), changed.n), changed, n) {
		if ctx.Err() != nil {
			return compared, context.Cause(ctx)
		}
		want, err := m.read(ctx, s)
		if err != nil {
			return compared, err
		}
		off := s * m.layout.Segment
		if dev.Size()-off < int64(len(want)) {
			continue // the image's last, which the device has otherwise
		}
		got := make([]byte, len(want))
		if _, err := dev.ReadAt(got, off); err != nil {
			return compared, err
		}
		if !bytes.Equal(got, want) {
			return compared, errs.E(errs.Conflict, "bytes %d to %d are said not to have changed, and have", off, off+int64(len(want))-1)
		}
		compared++
	}
	return compared, nil
}

// sampledOfGroup is how many segments of a group are sampled, on average.
const sampledOfGroup = 4

// sampled chooses at most n segments below limit that are not in changed, each
// once.
func (m *Image) sampled(limit int64, changed *Set, n int) []int64 {
	var out []int64
	seen := map[int64]bool{}
	add := func(s int64) {
		if s >= 0 && s < limit && len(out) < n && !seen[s] && !changed.Has(s) {
			seen[s] = true
			out = append(out, s)
		}
	}
	add(0)
	add(limit - 1)
	var groups []int64
	for g := range m.layout.Groups() {
		if !m.isZeroGroup(g) {
			groups = append(groups, g)
		}
	}
	// Of few groups, since it is their indexes that take time to read.
	rand.Shuffle(len(groups), func(i, j int) { groups[i], groups[j] = groups[j], groups[i] })
	groups = groups[:min(len(groups), 1+n/sampledOfGroup)]
	for range 4 * n {
		if len(groups) == 0 {
			break
		}
		from, to := m.layout.segments(groups[rand.IntN(len(groups))])
		add(from + rand.Int64N(to-from))
	}
	for range n {
		if limit > 0 {
			add(rand.Int64N(limit))
		}
	}
	return out
}
