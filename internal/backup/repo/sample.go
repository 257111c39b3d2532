package repo

import (
	"bytes"
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"

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
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	list := m.sampled(min(m.layout.Segments(), changed.n), changed, n)
	var (
		next, done atomic.Int64
		wg         sync.WaitGroup
	)
	for range min(runtime.GOMAXPROCS(0), len(list), 16) {
		wg.Go(func() {
			got := make([]byte, m.layout.Segment)
			for i := next.Add(1) - 1; int(i) < len(list) && ctx.Err() == nil; i = next.Add(1) - 1 {
				switch same, err := m.compare(ctx, dev, list[i], got); {
				case err != nil:
					cancel(err)
				case same:
					done.Add(1)
				}
			}
		})
	}
	wg.Wait()
	compared = int(done.Load())
	if ctx.Err() != nil {
		return compared, context.Cause(ctx)
	}
	return compared, nil
}

// compare compares a segment of the image with the device's, for which there
// is a buffer. It is false of one that the device has otherwise: the image's
// last, where the device has shrunk.
func (m *Image) compare(ctx context.Context, dev block.Device, s int64, got []byte) (bool, error) {
	want, err := m.read(ctx, s)
	if err != nil {
		return false, err
	}
	off := s * m.layout.Segment
	if dev.Size()-off < int64(len(want)) {
		return false, nil
	}
	got = got[:len(want)]
	if _, err := dev.ReadAt(got, off); err != nil {
		return false, err
	}
	if !bytes.Equal(got, want) {
		return false, errs.E(errs.Conflict, "bytes %d to %d are said not to have changed, and have", off, off+int64(len(want))-1)
	}
	return true, nil
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
