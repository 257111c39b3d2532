package repo

import (
	"context"

	"cowl/internal/block"
	"cowl/internal/errs"
)

// Differing returns where two images of one repository may differ, in ascending
// order, whole segments: where they do not refer to the same objects. Nothing of
// their content is read. The error is errs.Unsupported if they are not cut alike.
func (m *Image) Differing(ctx context.Context, o *Image) ([]block.Extent, error) {
	if m.r != o.r || m.layout.Segment != o.layout.Segment || m.layout.Group != o.layout.Group {
		return nil, errs.E(errs.Unsupported, "images that are not of one repository, or not cut into the same segments")
	}
	var out []block.Extent
	add := func(off, length int64) {
		if n := len(out); n > 0 && out[n-1].End() == off {
			out[n-1].Len += length
		} else if length > 0 {
			out = append(out, block.Extent{Off: off, Len: length})
		}
	}
	size := min(m.layout.Bytes, o.layout.Bytes)
	for g := int64(0); g*m.layout.Group < size; g++ {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if m.groups[g] == o.groups[g] && m.layout.groupLen(g) == o.layout.groupLen(g) {
			continue
		}
		for s := g * m.layout.Group / m.layout.Segment; s*m.layout.Segment < min((g+1)*m.layout.Group, size); s++ {
			a, _, err := m.segment(ctx, s)
			if err != nil {
				return nil, err
			}
			b, _, err := o.segment(ctx, s)
			if err != nil {
				return nil, err
			}
			if off := s * m.layout.Segment; a != b {
				add(off, min(m.layout.Segment, size-off))
			}
		}
	}
	add(size, max(m.layout.Bytes, o.layout.Bytes)-size)
	return out, nil
}
