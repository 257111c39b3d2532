package manager

import (
	"cmp"
	"errors"

	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/block/linear"
	"cowl/internal/engine"
	"cowl/internal/errs"
	"cowl/internal/metastore"
	"cowl/internal/volume"
)

// growth is how the engine keeps snapshots of a group from overflowing.
func (s Settings) growth(store *metastore.Store) engine.Growth {
	g := engine.Growth{Growth: s.Growth, AllocatePV: allocate}
	if s.GrowFiles {
		g.EnlargePV = func(id volume.UUID, dev block.Device, size int64) (int64, error) {
			return enlarge(store, id, dev, size)
		}
	}
	return g
}

// allocate gives a range of a PV its place in the file system that its file is
// in, for engine.Growth.
func allocate(dev block.Device, off, length int64) error {
	switch d := dev.(type) {
	case *file.Device:
		if info, err := d.Stat(); err != nil || !info.Mode().IsRegular() {
			return cmp.Or(err, errors.ErrUnsupported) // a disk is all there
		}
		return d.Allocate(off, length)
	case *linear.Device: // a partition
		for part := range d.Parts(off, length) {
			if err := allocate(part.Dev, part.Off, part.Len); err != nil {
				return err
			}
		}
		return nil
	}
	return errors.ErrUnsupported
}

// enlarge makes a PV longer that is a whole file, for engine.Growth. One with a
// metadata area at its end stays as it is: LVM2 would look for the area at the
// new end.
func enlarge(store *metastore.Store, id volume.UUID, dev block.Device, size int64) (int64, error) {
	f, ok := dev.(*file.Device)
	if !ok {
		return 0, errs.E(errs.Unsupported, "a partition does not grow")
	}
	if hasSecondArea(store.State()[id]) {
		return 0, errs.E(errs.Unsupported, "%s has metadata at its end", f.Path())
	}
	return f.Enlarge(size)
}

// hasSecondArea reports whether a PV has metadata behind its extents.
func hasSecondArea(st metastore.PVState) bool { return len(st.MDAs) > 1 }
