package engine

import (
	"fmt"
	"iter"
	"sync/atomic"

	"cowl/internal/block"
	"cowl/internal/block/linear"
	"cowl/internal/errs"
	"cowl/internal/volume"
)

// base is a logical volume's own extents as a device: what lies under an
// origin or an exception store. When the volume is extended a longer map takes
// the place of the shorter; requests in flight may still use the old one,
// which maps what it has to the same places.
type base struct {
	dev atomic.Pointer[linear.Device]
}

// newBase maps the extents of an LV to the devices of its PVs.
func (g *Group) newBase(model *volume.Group, lv *volume.LV) (*base, error) {
	b := new(base)
	return b, g.remap(b, model, lv)
}

// remap gives the base the LV's present extents.
func (g *Group) remap(b *base, model *volume.Group, lv *volume.LV) error {
	dev, err := g.mapExtents(model, lv)
	if err == nil {
		b.dev.Store(dev)
	}
	return err
}

func (g *Group) mapExtents(model *volume.Group, lv *volume.LV) (*linear.Device, error) {
	if t, bad := model.UnsupportedType(lv); bad {
		return nil, errs.E(errs.Unsupported, "Logical volume %s/%s has segment type %s, which cowl cannot activate.", model.Name, lv.Name, t)
	}
	var targets []linear.Target
	for i := range lv.Segments {
		t, err := g.mapSegment(model, &lv.Segments[i])
		if err != nil {
			return nil, fmt.Errorf("Refusing activation of LV %s/%s: %w", model.Name, lv.Name, err)
		}
		targets = append(targets, t)
	}
	return linear.New(targets)
}

func (g *Group) mapSegment(model *volume.Group, seg *volume.Segment) (linear.Target, error) {
	areas := make([]linear.Area, len(seg.Stripes))
	for i, s := range seg.Stripes {
		pv := model.PV(s.PV)
		dev, ok := g.devs[pv.ID]
		if !ok {
			return linear.Target{}, errs.E(errs.NotFound, "the device of PV %s is missing", pv.ID)
		}
		areas[i] = linear.Area{Dev: dev, DevOff: pv.PEStart.Bytes() + model.ExtentBytes(s.Start)}
	}
	t := linear.Target{Off: model.ExtentBytes(seg.Start), Len: model.ExtentBytes(seg.Count)}
	if len(areas) == 1 {
		t.Dev, t.DevOff = areas[0].Dev, areas[0].DevOff
		return t, nil
	}
	striped, err := linear.Stripe(areas, seg.StripeSize.Bytes(), t.Len)
	t.Dev = striped
	return t, err
}

// ReadAt implements block.Device.
func (b *base) ReadAt(p []byte, off int64) (int, error) { return b.dev.Load().ReadAt(p, off) }

// WriteAt implements block.Device.
func (b *base) WriteAt(p []byte, off int64) (int, error) { return b.dev.Load().WriteAt(p, off) }

// Flush implements block.Device.
func (b *base) Flush() error { return b.dev.Load().Flush() }

// Discard implements block.Device.
func (b *base) Discard(off, length int64) error { return b.dev.Load().Discard(off, length) }

// WriteZeroes implements block.Device.
func (b *base) WriteZeroes(off, length int64) error { return b.dev.Load().WriteZeroes(off, length) }

// Extents implements block.Device.
func (b *base) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	return b.dev.Load().Extents(off, length)
}

// Size implements block.Device.
func (b *base) Size() int64 { return b.dev.Load().Size() }

// Caps implements block.Device.
func (b *base) Caps() block.Caps { return b.dev.Load().Caps() }

// Close implements block.Device. The PVs' devices stay open.
func (b *base) Close() error { return nil }
