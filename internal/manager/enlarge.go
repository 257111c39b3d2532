package manager

import (
	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/engine"
	"cowl/internal/errs"
	"cowl/internal/metastore"
	"cowl/internal/volume"
)

// growth is how the engine keeps snapshots of a group from overflowing.
func (s Settings) growth(store *metastore.Store) engine.Growth {
	g := engine.Growth{Growth: s.Growth}
	if s.GrowFiles {
		g.EnlargePV = func(id volume.UUID, dev block.Device, size int64) (int64, error) {
			return enlarge(store, id, dev, size)
		}
	}
	return g
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
