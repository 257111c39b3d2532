package volume

import (
	"cmp"
	"slices"

	"cowl/internal/errs"
)

// maxStoredChunk bounds the chunk size that metadata may claim, in sectors.
// LVM2 creates none larger than MaxChunk; the kernel's limit is its memory.
const maxStoredChunk Sectors = 16 << 20 >> 9

// Validate checks what metadata that anybody may have written must hold
// before the group is used: unique names, keys and identifiers, segments
// without gaps, extents that exist and are taken once, snapshots that make
// sense, numbers that do not overflow. It returns an error of kind
// errs.Corrupt that names the object. LVs of types that cowl does not act on
// are checked as far as it understands them.
func Validate(g *Group) error {
	v := &validator{g: g, ids: map[UUID]string{}, pvs: map[string]*PV{}, lvs: map[string]*LV{}}
	for _, step := range []func() error{v.group, v.physical, v.logical, v.allocation, v.snapshots} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// validator holds the indexes that the checks share; the group may be large
// and every lookup must not walk it.
type validator struct {
	g   *Group
	ids map[UUID]string
	pvs map[string]*PV
	lvs map[string]*LV
}

func (v *validator) fail(format string, args ...any) error {
	return errs.E(errs.Corrupt, "volume group %q: "+format, append([]any{v.g.Name}, args...)...)
}

// unique notes an identifier.
func (v *validator) unique(id UUID, what string) error {
	if !id.Valid() {
		return v.fail("%s has the invalid id %q", what, string(id))
	}
	if other, taken := v.ids[id]; taken {
		return v.fail("%s and %s have the same id %s", other, what, id)
	}
	v.ids[id] = what
	return nil
}

func (v *validator) group() error {
	g := v.g
	switch {
	case !validChars(g.Name):
		return v.fail("its name is invalid")
	case g.ExtentSize == 0 || g.ExtentSize >= 1<<32:
		return v.fail("extent size of %d sectors", g.ExtentSize)
	case len(g.PVs) == 0:
		return v.fail("has no physical volumes")
	}
	return v.unique(g.ID, "the group")
}

// maxSectors bounds offsets and sizes so that they are positive int64 bytes
// with room to add two of them.
const maxSectors Sectors = 1 << 52

func (v *validator) physical() error {
	var sum Extents
	for _, pv := range v.g.PVs {
		if pv.Key == "" || v.pvs[pv.Key] != nil {
			return v.fail("the physical volume key %q is empty or used twice", pv.Key)
		}
		v.pvs[pv.Key] = pv
		if err := v.unique(pv.ID, "physical volume "+pv.Key); err != nil {
			return err
		}
		if pv.PECount > MaxExtents || pv.PEStart > maxSectors || pv.DevSize > maxSectors ||
			pv.BAStart > maxSectors || pv.BASize > maxSectors ||
			Sectors(pv.PECount) > maxSectors/v.g.ExtentSize {
			return v.fail("physical volume %s is impossibly large", pv.Key)
		}
		sum += pv.PECount
	}
	if Sectors(sum) > maxSectors/v.g.ExtentSize {
		return v.fail("is impossibly large (%d extents)", sum)
	}
	return nil
}

func (v *validator) logical() error {
	for _, lv := range v.g.LVs {
		if !validChars(lv.Name) {
			return v.fail("logical volume name %q is invalid", lv.Name)
		}
		if v.lvs[lv.Name] != nil {
			return v.fail("there are two logical volumes %q", lv.Name)
		}
		v.lvs[lv.Name] = lv
		if err := v.unique(lv.ID, "logical volume "+lv.Name); err != nil {
			return err
		}
	}
	for _, lv := range v.g.LVs {
		if err := v.segments(lv); err != nil {
			return err
		}
	}
	return nil
}

func (v *validator) segments(lv *LV) error {
	var next Extents
	if len(lv.Segments) == 0 {
		return v.fail("logical volume %s has no segments", lv.Name)
	}
	for i := range lv.Segments {
		s := &lv.Segments[i]
		if s.Start != next {
			return v.fail("logical volume %s: segment %d starts at extent %d instead of %d", lv.Name, i+1, s.Start, next)
		}
		if s.Count == 0 || s.Count > MaxExtents-next || Sectors(next+s.Count) > maxSectors/v.g.ExtentSize {
			return v.fail("logical volume %s: segment %d has %d extents", lv.Name, i+1, s.Count)
		}
		next += s.Count
		if s.Type == Striped {
			if err := v.striped(lv, i+1, s); err != nil {
				return err
			}
		}
	}
	return nil
}

func (v *validator) striped(lv *LV, number int, s *Segment) error {
	n := Extents(len(s.Stripes))
	if n == 0 || s.Count%n != 0 {
		return v.fail("logical volume %s: segment %d has %d extents on %d stripes", lv.Name, number, s.Count, n)
	}
	// As in the kernel: each stripe is a whole number of stripe units.
	if n > 1 && (s.StripeSize == 0 || Sectors(s.Count/n)*v.g.ExtentSize%s.StripeSize != 0) {
		return v.fail("logical volume %s: segment %d has a stripe size of %d sectors, which does not divide it", lv.Name, number, s.StripeSize)
	}
	for _, a := range s.Stripes {
		pv := v.pvs[a.PV]
		if pv == nil && v.lvs[a.PV] == nil {
			return v.fail("logical volume %s: segment %d is on %q, which does not exist", lv.Name, number, a.PV)
		}
		if length := s.Count / n; pv != nil && (a.Start > pv.PECount || length > pv.PECount-a.Start) {
			return v.fail("logical volume %s: segment %d takes extents %d to %d of %s, which has %d", lv.Name, number, a.Start, a.Start+length-1, a.PV, pv.PECount)
		}
	}
	return nil
}

// allocation checks that no extent belongs to two segments.
func (v *validator) allocation() error {
	type owned struct {
		Run
		lv *LV
	}
	byPV := map[string][]owned{}
	for _, lv := range v.g.LVs {
		for i := range lv.Segments {
			s := &lv.Segments[i]
			if s.Type != Striped {
				continue
			}
			for _, a := range s.Stripes {
				if v.pvs[a.PV] != nil {
					byPV[a.PV] = append(byPV[a.PV], owned{Run{a.PV, a.Start, s.AreaLen()}, lv})
				}
			}
		}
	}
	for _, pv := range v.g.PVs {
		runs := byPV[pv.Key]
		slices.SortFunc(runs, func(a, b owned) int { return cmp.Compare(a.Start, b.Start) })
		for i := 1; i < len(runs); i++ {
			if a, b := runs[i-1], runs[i]; b.Start < a.End() {
				return v.fail("extent %d of %s belongs to both %s and %s", b.Start, pv.Key, a.lv.Name, b.lv.Name)
			}
		}
	}
	return nil
}

func (v *validator) snapshots() error {
	stores := map[string]string{}  // store -> holder
	merging := map[string]string{} // origin -> store
	for _, lv := range v.g.LVs {
		for i := range lv.Segments {
			if lv.Segments[i].Type == Snapshot && len(lv.Segments) != 1 {
				return v.fail("logical volume %s mixes a snapshot with other segments", lv.Name)
			}
		}
		if !lv.isHolder() {
			continue
		}
		s := &lv.Segments[0]
		if err := v.snapshot(lv, s); err != nil {
			return err
		}
		if other, taken := stores[s.Store]; taken {
			return v.fail("%s is the store of both %s and %s", s.Store, other, lv.Name)
		}
		stores[s.Store] = lv.Name
		if s.Merging {
			if other, taken := merging[s.Origin]; taken {
				return v.fail("both %s and %s are merging into %s", other, s.Store, s.Origin)
			}
			merging[s.Origin] = s.Store
		}
	}
	// Neither cycles nor towers: an origin is never a store.
	for _, lv := range v.g.LVs {
		if !lv.isHolder() {
			continue
		}
		if holder, is := stores[lv.Segments[0].Origin]; is {
			return v.fail("%s, the origin of %s, is itself the store of %s", lv.Segments[0].Origin, lv.Name, holder)
		}
	}
	return nil
}

// snapshot checks one snapshotN by itself.
func (v *validator) snapshot(holder *LV, s *Segment) error {
	origin, store := v.lvs[s.Origin], v.lvs[s.Store]
	switch {
	case origin == nil || origin.isHolder():
		return v.fail("the origin %q of %s does not exist", s.Origin, holder.Name)
	case store == nil || store.isHolder():
		return v.fail("the store %q of %s does not exist", s.Store, holder.Name)
	case s.ChunkSize == 0 || s.ChunkSize > maxStoredChunk || s.ChunkSize&(s.ChunkSize-1) != 0:
		return v.fail("%s has a chunk size of %d sectors", holder.Name, s.ChunkSize)
	case s.Count > origin.Extents():
		return v.fail("%s has %d extents, its origin %s only %d", holder.Name, s.Count, s.Origin, origin.Extents())
	}
	return nil
}
