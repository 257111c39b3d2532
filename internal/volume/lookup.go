package volume

import (
	"slices"

	"cowl/internal/errs"
)

// Words of a status list that cowl acts on.
const (
	StatusRead        = "READ"
	StatusWrite       = "WRITE"
	StatusVisible     = "VISIBLE"
	StatusResizeable  = "RESIZEABLE"
	StatusExported    = "EXPORTED"
	StatusPartial     = "PARTIAL"
	StatusAllocatable = "ALLOCATABLE"
	StatusMissing     = "MISSING"
)

// Snap is one snapshot: what SnapshotOf and SnapshotsOf return. The pointers
// are into the group.
type Snap struct {
	Cow     *LV      // the COW store, which bears the snapshot's name
	Origin  *LV      // what it is a snapshot of
	Holder  *LV      // the internal LV snapshotN that ties the two
	Segment *Segment // the holder's only segment
}

// Size returns the snapshot's size in extents: the origin's when it was taken.
func (s Snap) Size() Extents { return s.Segment.Count }

// LV returns the logical volume of that name, hidden ones too, or nil.
func (g *Group) LV(name string) *LV {
	for _, lv := range g.LVs {
		if lv.Name == name {
			return lv
		}
	}
	return nil
}

// FindLV returns the logical volume that a person means by the name, or an
// error of kind errs.NotFound in LVM2's words. The internal LVs snapshotN
// cannot be found.
func (g *Group) FindLV(name string) (*LV, error) {
	if lv := g.LV(name); lv != nil && !lv.isHolder() {
		return lv, nil
	}
	return nil, errs.E(errs.NotFound, "Failed to find logical volume \"%s/%s\"", g.Name, name)
}

// PV returns the physical volume with the metadata key, or nil.
func (g *Group) PV(key string) *PV {
	for _, pv := range g.PVs {
		if pv.Key == key {
			return pv
		}
	}
	return nil
}

// PVByID returns the physical volume with the identifier, or nil.
func (g *Group) PVByID(id UUID) *PV {
	for _, pv := range g.PVs {
		if pv.ID == id {
			return pv
		}
	}
	return nil
}

// isHolder reports whether the LV is an internal snapshotN.
func (lv *LV) isHolder() bool {
	return len(lv.Segments) > 0 && lv.Segments[0].Type == Snapshot
}

// Snapshots returns all snapshots of the group in the metadata's order, those
// being merged included. A snapshot whose LVs are missing is left out;
// Validate complains of it.
func (g *Group) Snapshots() []Snap {
	byName := make(map[string]*LV, len(g.LVs))
	for _, lv := range g.LVs {
		byName[lv.Name] = lv
	}
	var snaps []Snap
	for _, lv := range g.LVs {
		if !lv.isHolder() {
			continue
		}
		seg := &lv.Segments[0]
		s := Snap{Cow: byName[seg.Store], Origin: byName[seg.Origin], Holder: lv, Segment: seg}
		if s.Cow != nil && s.Origin != nil {
			snaps = append(snaps, s)
		}
	}
	return snaps
}

// SnapshotOf returns the snapshot whose COW store the LV is.
func (g *Group) SnapshotOf(lv *LV) (Snap, bool) {
	for _, s := range g.Snapshots() {
		if s.Cow == lv {
			return s, true
		}
	}
	return Snap{}, false
}

// SnapshotsOf returns the snapshots of an origin in LVM2's order, which is
// the metadata's. One that is being merged is among them.
func (g *Group) SnapshotsOf(origin *LV) []Snap {
	var snaps []Snap
	for _, s := range g.Snapshots() {
		if s.Origin == origin {
			snaps = append(snaps, s)
		}
	}
	return snaps
}

// MergingInto returns the snapshot that is being merged into the origin.
func (g *Group) MergingInto(origin *LV) (Snap, bool) {
	for _, s := range g.SnapshotsOf(origin) {
		if s.Segment.Merging {
			return s, true
		}
	}
	return Snap{}, false
}

// IsOrigin reports whether the LV has snapshots.
func (g *Group) IsOrigin(lv *LV) bool { return len(g.SnapshotsOf(lv)) > 0 }

// IsCow reports whether the LV is a snapshot's COW store.
func (g *Group) IsCow(lv *LV) bool {
	_, ok := g.SnapshotOf(lv)
	return ok
}

// IsVisible reports whether lvs lists the LV without -a: those with VISIBLE,
// and COW stores (which lack it) unless they are being merged; never snapshotN.
func (g *Group) IsVisible(lv *LV) bool {
	if lv.isHolder() {
		return false
	}
	if s, ok := g.SnapshotOf(lv); ok {
		return !s.Segment.Merging
	}
	return lv.Has(StatusVisible)
}

// Visible returns the LVs that lvs lists without -a, in the metadata's order.
func (g *Group) Visible() []*LV {
	merging := make(map[*LV]bool)
	for _, s := range g.Snapshots() {
		merging[s.Cow] = s.Segment.Merging
	}
	var out []*LV
	for _, lv := range g.LVs {
		m, isCow := merging[lv]
		if isCow && !m || !isCow && !lv.isHolder() && lv.Has(StatusVisible) {
			out = append(out, lv)
		}
	}
	return out
}

// Has reports whether the LV's status has the word.
func (lv *LV) Has(word string) bool { return slices.Contains(lv.Status, word) }

// Has reports whether the PV's status has the word.
func (pv *PV) Has(word string) bool {
	return slices.Contains(pv.Status, word) || slices.Contains(pv.Flags, word)
}

// Has reports whether the group's status has the word.
func (g *Group) Has(word string) bool { return slices.Contains(g.Status, word) }

// ReadOnly reports whether the LV's permission is read-only.
func (lv *LV) ReadOnly() bool { return !lv.Has(StatusWrite) }

// Extents returns the LV's size.
func (lv *LV) Extents() Extents {
	var n Extents
	for i := range lv.Segments {
		n += lv.Segments[i].Count
	}
	return n
}

// LVSize returns the LV's size. A snapshot's is its COW store's, as in lvs.
func (g *Group) LVSize(lv *LV) Sectors { return Sectors(lv.Extents()) * g.ExtentSize }

// UnsupportedType returns the first segment type of the LV that cowl carries
// through and does not act on, and whether there is one. A striped segment
// over other LVs instead of PVs counts.
func (g *Group) UnsupportedType(lv *LV) (SegmentType, bool) {
	for i := range lv.Segments {
		s := &lv.Segments[i]
		switch s.Type {
		case Snapshot:
		case Striped:
			for _, a := range s.Stripes {
				if g.PV(a.PV) == nil {
					return "striped over logical volumes", true
				}
			}
		default:
			return s.Type, true
		}
	}
	return "", false
}

// checkSupported returns an error of kind errs.Unsupported if the LV is not
// made of linear or striped segments on PVs, or is part of one that is not.
func (g *Group) checkSupported(lv *LV) error {
	if t, bad := g.UnsupportedType(lv); bad {
		return errs.E(errs.Unsupported, "Logical volume %s/%s has segment type %s, which cowl does not change.", g.Name, lv.Name, t)
	}
	if !g.IsVisible(lv) && !g.IsCow(lv) {
		return errs.E(errs.Unsupported, "Logical volume %s/%s is internal to another volume; cowl does not change it.", g.Name, lv.Name)
	}
	return nil
}
