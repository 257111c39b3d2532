package backup

import (
	"context"
	"iter"
	"sort"

	"cowl/internal/backup/repo"
	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/export"
)

// comparedBytes is how much of two images is compared at a time, in bytes.
const comparedBytes = 4 << 20

// Against returns where an image differs from another, marked as a bitmap does:
// what a client needs to make the image of the other. Of two in one repository
// that is known by segments from their indexes, which are read here; others are
// compared while somebody asks, until ctx ends. What lies behind the other's end
// differs. That the other is longer is not told.
func Against(ctx context.Context, dev, other block.Device) (func(off, length int64) iter.Seq2[export.Run, error], error) {
	a, okA := dev.(*repo.Image)
	b, okB := other.(*repo.Image)
	if okA && okB {
		known, err := a.Differing(ctx, b)
		if err == nil {
			return cover(knownBetween(known)), nil
		}
		if !errs.Is(err, errs.Unsupported) {
			return nil, err
		}
	}
	return cover(func(off, length int64) iter.Seq2[block.Extent, error] {
		return compared(ctx, dev, other, off, length)
	}), nil
}

// knownBetween walks the extents of an ascending list that lie in a range.
func knownBetween(list []block.Extent) func(off, length int64) iter.Seq2[block.Extent, error] {
	return func(off, length int64) iter.Seq2[block.Extent, error] {
		return func(yield func(block.Extent, error) bool) {
			first := sort.Search(len(list), func(i int) bool { return list[i].End() > off })
			for _, e := range list[first:] {
				from, to := max(e.Off, off), min(e.End(), off+length)
				if from >= to || !yield(block.Extent{Off: from, Len: to - from}, nil) {
					return
				}
			}
		}
	}
}

// compared walks what differs in a range of which a part at most lies behind
// the other's end. An extent without length says that all before it is known.
func compared(ctx context.Context, dev, other block.Device, off, length int64) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		end := off + length
		for off < end {
			common := min(end, other.Size(), off+comparedBytes) - off
			if common <= 0 {
				yield(block.Extent{Off: off, Len: end - off}, nil)
				return
			}
			for e, err := range block.Differing(ctx, dev, other, off, common) {
				if !yield(e, err) || err != nil {
					return
				}
			}
			if off += common; !yield(block.Extent{Off: off}, nil) {
				return
			}
		}
	}
}

// cover makes runs that cover a range of the marked extents in it.
func cover(marked func(off, length int64) iter.Seq2[block.Extent, error]) func(off, length int64) iter.Seq2[export.Run, error] {
	return func(off, length int64) iter.Seq2[export.Run, error] {
		return func(yield func(export.Run, error) bool) {
			at, end := off, off+length
			for e, err := range marked(off, length) {
				if err != nil {
					yield(export.Run{}, err)
					return
				}
				if e.Off > at && !yield(export.Run{Off: at, Len: e.Off - at}, nil) {
					return
				}
				if e.Len > 0 && !yield(export.Run{Off: e.Off, Len: e.Len, Marked: true}, nil) {
					return
				}
				at = e.End()
			}
			if at < end {
				yield(export.Run{Off: at, Len: end - at}, nil)
			}
		}
	}
}
