package volume

import (
	"slices"

	"cowl/internal/errs"
)

// exceptionBytes is the size of one entry of a COW store's metadata areas.
const exceptionBytes = 16

// minChunks is the smallest COW store: a header, a metadata area, a data chunk.
const minChunks = 3

// CowMax returns the largest COW store that a snapshot of an origin of so many
// bytes can make use of: one that holds every chunk of it. In bytes.
func CowMax(origin int64, chunk Sectors) int64 {
	cs := chunk.Bytes()
	data := (origin + cs - 1) / cs
	perArea := cs / exceptionBytes
	areas := (data + perArea) / perArea // one more where the last is full: it terminates
	return (1 + areas + data) * cs
}

// CreateSnapshot makes a COW snapshot: the store under the snapshot's name,
// and the internal LV snapshotN that ties it to the origin.
func (g *Group) CreateSnapshot(spec SnapshotSpec, s Stamp) (*Change, error) {
	origin, err := g.checkOrigin(spec.Origin)
	if err == nil {
		err = g.checkSupported(origin)
	}
	if err != nil {
		return nil, err
	}
	return g.createSnapshot(spec, origin, s)
}

// PlanSnapshot is CreateSnapshot for a group that lvm2 runs and changes: the
// origin may be of a type that cowl's engine does not run. What comes out says
// how large a snapshot would be; it is not to be written.
func (g *Group) PlanSnapshot(spec SnapshotSpec, s Stamp) (*Change, error) {
	origin, err := g.checkOrigin(spec.Origin)
	switch {
	case err != nil:
		return nil, err
	case origin.IsPool():
		return nil, errs.E(errs.Unsupported, "Logical volume %s/%s is a %s: there are no snapshots of it.", g.Name, origin.Name, origin.Segments[0].Type)
	case !g.IsVisible(origin):
		return nil, g.checkSupported(origin)
	}
	return g.createSnapshot(spec, origin, s)
}

func (g *Group) createSnapshot(spec SnapshotSpec, origin *LV, s Stamp) (*Change, error) {
	if spec.ChunkSize == 0 {
		spec.ChunkSize = DefaultChunk
	}
	if err := CheckChunkSize(spec.ChunkSize); err != nil {
		return nil, err
	}
	if spec.Name == "" {
		spec.Name = g.NextLVName()
	}
	if err := g.checkNewLV(spec.Name, spec.Tags, 1); err != nil {
		return nil, err
	}
	next := g.Clone()
	c := &Change{Group: next, LVs: []string{spec.Name}}
	maps, err := next.freeMaps(spec.PVs, c)
	if err != nil {
		return nil, err
	}
	need, err := next.cowExtents(spec, origin.Extents(), maps, c)
	if err != nil {
		return nil, err
	}
	cow := newLV(spec.Name, spec.Tags, spec.ReadOnly, s)
	if err := next.growNew(cow, need, spec.Size, maps); err != nil {
		return nil, err
	}
	holder := newLV(next.nextSnapshotName(), nil, false, s)
	holder.Status = append(holder.Status, StatusVisible)
	holder.Segments = []Segment{{
		Count: origin.Extents(), Type: Snapshot,
		ChunkSize: spec.ChunkSize, Origin: origin.Name, Store: cow.Name,
	}}
	next.LVs = append(next.LVs, cow, holder)
	next.sortVisible()
	return c, nil
}

// checkOrigin returns the LV if a snapshot may be taken of it, as far as its
// type allows that.
func (g *Group) checkOrigin(name string) (*LV, error) {
	lv := g.LV(name)
	switch {
	case lv == nil || lv.isHolder():
		return nil, errs.E(errs.NotFound, "Snapshot origin LV %s not found in Volume group %s.", name, g.Name)
	case g.IsCow(lv):
		return nil, errs.E(errs.Unsupported, "Snapshots of snapshots are not supported.")
	}
	if _, merging := g.MergingInto(lv); merging {
		return nil, errs.E(errs.Conflict, "Snapshots of an origin that has a merging snapshot are not supported.")
	}
	return lv, nil
}

// cowExtents returns the size of a new COW store.
func (g *Group) cowExtents(spec SnapshotSpec, origin Extents, maps []pvMap, c *Change) (Extents, error) {
	limit := g.ExtentsFor(CowMax(g.ExtentBytes(origin), spec.ChunkSize))
	least := g.ExtentsFor(minChunks * spec.ChunkSize.Bytes())
	var n Extents
	switch {
	case spec.Size.IsZero():
		n = g.defaultCow(spec, limit, least, c)
	case spec.Size.Of == OfOrigin && spec.Size.Percent > 0:
		// LVM2 takes the percentage of the origin first, and adds what the
		// store of so large an origin needs for its metadata.
		part := percent(spec.Size.Percent, origin, true)
		n = g.ExtentsFor(CowMax(g.ExtentBytes(min(part, MaxExtents)), spec.ChunkSize))
	case spec.Size.Of == OfLV:
		return 0, errs.E(errs.Usage, "Please express size as %%FREE, %%ORIGIN, %%PVS or %%VG.")
	default:
		var err error
		if n, err = g.newExtents(spec.Size, maps, spec.PVs != nil, c); err != nil {
			return 0, err
		}
	}
	if n > limit {
		c.note("Reducing COW size %s down to maximum usable size %s.", LongSize(g.ExtentBytes(n)), LongSize(g.ExtentBytes(limit)))
		n = limit
	}
	if n < least {
		return 0, errs.E(errs.Conflict, "Snapshot volume cannot be smaller than %d chunks (%d extents, %s).",
			minChunks, least, LongSize(minChunks*spec.ChunkSize.Bytes()))
	}
	return n, nil
}

// defaultCow chooses a store's size where none was given (LVM2 refuses): the
// one that is advised; else one that cannot overflow; but at most half of the
// free space, or its part of that.
func (g *Group) defaultCow(spec SnapshotSpec, limit, least Extents, c *Change) Extents {
	half, share := max(g.Free()/Extents(max(spec.FreePart, 2)), least), "half of what is free"
	if spec.FreePart > 2 {
		share = "its part of half of what is free"
	}
	size := func(n Extents) string { return LongSize(g.ExtentBytes(n)) }
	if a := spec.Advised; a != nil {
		want := min(max(g.ExtentsFor(a.Bytes), least), limit)
		if want <= half {
			c.note("No size given: %s of COW space with chunks of %s, %s.", size(want), LongSize(spec.ChunkSize.Bytes()), a.Why)
			return want
		}
		c.note("No size given: %s of COW space, %s; %s %s.", size(half), share, size(want), a.Why)
		return half
	}
	if limit <= half {
		c.note("No size given: %s of COW space, which cannot overflow.", size(limit))
		return limit
	}
	c.note("No size given: %s of COW space, %s.", size(half), share)
	return half
}

// ShareFree makes snapshots that are taken together and have no size share what
// a single one would get: half of the free space. Otherwise the first would take
// half of it, the second half of the rest, and the last next to nothing.
func ShareFree(specs []SnapshotSpec) {
	n := 0
	for _, s := range specs {
		if s.Size.IsZero() {
			n++
		}
	}
	// Of F free extents each gets F/2n. Before the i-th, F*(2n-i)/2n are left.
	i := 0
	for at := range specs {
		if specs[at].Size.IsZero() {
			specs[at].FreePart = 2*n - i
			i++
		}
	}
}

// StartMerge marks a snapshot as being merged into its origin, as lvconvert
// --merge does. The merge itself is the engine's, and FinishMerge its end. Of
// one that is merging it changes the rate, if there is one in the spec.
func (g *Group) StartMerge(spec MergeSpec) (*Change, error) {
	name := spec.Name
	if spec.Rate != nil && *spec.Rate < 0 {
		return nil, errs.E(errs.Usage, "A merge cannot copy %d bytes a second.", *spec.Rate)
	}
	cow, err := g.FindLV(name)
	if err != nil {
		return nil, err
	}
	s, ok := g.SnapshotOf(cow)
	switch {
	case !ok:
		return nil, errs.E(errs.Usage, "Logical volume \"%s/%s\" is not a snapshot.", g.Name, name)
	case s.Segment.Merging && spec.Rate != nil:
		next := g.Clone()
		next.LV(name).setMergeRate(*spec.Rate)
		return &Change{Group: next, LVs: []string{name}}, nil
	case s.Segment.Merging:
		return nil, errs.E(errs.Conflict, "Snapshot %s/%s is already merging.", g.Name, name)
	}
	for _, lv := range []*LV{s.Origin, cow} {
		if err := g.checkSupported(lv); err != nil {
			return nil, err
		}
	}
	if other, busy := g.MergingInto(s.Origin); busy {
		return nil, errs.E(errs.Conflict, "Cannot merge snapshot %[1]s/%[2]s into the origin %[1]s/%[3]s with merging snapshot %[1]s/%[4]s.", g.Name, name, s.Origin.Name, other.Cow.Name)
	}
	next := g.Clone()
	holder := next.LV(s.Holder.Name)
	holder.Status = slices.DeleteFunc(holder.Status, func(w string) bool { return w == StatusVisible })
	holder.Segments[0].Merging = true
	if spec.Rate != nil {
		next.LV(name).setMergeRate(*spec.Rate)
	}
	next.sortVisible()
	return &Change{Group: next, LVs: []string{name}}, nil
}

// FinishMerge removes a snapshot that is merging: it has been merged, or its
// store was found invalid and can never be.
func (g *Group) FinishMerge(name string) (*Change, error) {
	cow := g.LV(name)
	if cow == nil {
		return nil, errs.E(errs.NotFound, "Failed to find logical volume \"%s/%s\"", g.Name, name)
	}
	s, ok := g.SnapshotOf(cow)
	if !ok || !s.Segment.Merging {
		return nil, errs.E(errs.Conflict, "Logical volume \"%s/%s\" is not being merged.", g.Name, name)
	}
	next := g.Clone()
	next.drop(s)
	return &Change{Group: next, LVs: []string{name}}, nil
}

// RemoveLV removes a volume: an origin with its snapshots, a snapshot with
// its internal LV. A snapshot that is being merged is refused unless it goes
// with its origin.
func (g *Group) RemoveLV(name string) (*Change, error) {
	lv, err := g.FindLV(name)
	if err != nil {
		return nil, err
	}
	if s, ok := g.SnapshotOf(lv); ok && s.Segment.Merging {
		return nil, errs.E(errs.Conflict, "Can't remove merging snapshot logical volume %s/%s.", g.Name, name)
	}
	if err := g.checkSupported(lv); err != nil {
		return nil, err
	}
	next := g.Clone()
	c := &Change{Group: next}
	for _, s := range g.SnapshotsOf(lv) {
		if err := g.checkStore(s); err != nil {
			return nil, err
		}
		next.drop(s)
		c.LVs = append(c.LVs, s.Cow.Name)
	}
	if s, ok := g.SnapshotOf(lv); ok {
		next.drop(s)
	} else {
		next.dropLV(name)
	}
	c.LVs = append(c.LVs, name)
	return c, nil
}

// checkStore refuses a snapshot whose COW store is of a type that cowl does
// not know how to remove.
func (g *Group) checkStore(s Snap) error {
	if t, bad := g.UnsupportedType(s.Cow); bad {
		return errs.E(errs.Unsupported, "Snapshot %s/%s has segment type %s, which cowl does not change.", g.Name, s.Cow.Name, t)
	}
	return nil
}

// drop removes a snapshot's two LVs, found by the names of s, which may be of
// the group that this one was cloned from.
func (g *Group) drop(s Snap) {
	g.dropLV(s.Cow.Name)
	g.dropLV(s.Holder.Name)
}

func (g *Group) dropLV(name string) {
	g.LVs = slices.DeleteFunc(g.LVs, func(lv *LV) bool { return lv.Name == name })
}
