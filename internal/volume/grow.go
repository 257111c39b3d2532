package volume

import (
	"strconv"
	"strings"
	"time"

	"cowl/internal/errs"
)

// OnFull is what happens when a snapshot's COW store needs more space and there
// is none: to the write that needs it, and to the snapshot.
type OnFull string

// The policies.
const (
	OnFullInvalidate OnFull = "invalidate" // the write is made, the snapshot is lost: LVM's way
	OnFullHold       OnFull = "hold"       // the write waits for space, for a time; then as invalidate
	OnFullReadOnly   OnFull = "readonly"   // the write fails with ENOSPC, the snapshot lives
)

// ParseOnFull reads a policy's name.
func ParseOnFull(text string) (OnFull, error) {
	switch p := OnFull(text); p {
	case OnFullInvalidate, OnFullHold, OnFullReadOnly:
		return p, nil
	}
	return "", errs.E(errs.Usage, "%q is no policy for a full snapshot: use %s, %s or %s.", text, OnFullInvalidate, OnFullHold, OnFullReadOnly)
}

// The limits of LVM2's snapshot_autoextend_threshold: at 100 nothing is
// extended, and less than 50 counts as 50.
const (
	MinThreshold   = 50
	NeverThreshold = 100
)

// Growth says how a snapshot's COW store is kept from overflowing.
type Growth struct {
	// Threshold is LVM2's snapshot_autoextend_threshold: the store is extended
	// when more than that percentage of it is in use. 0 is never, as is 100.
	Threshold int
	// Percent is LVM2's snapshot_autoextend_percent: how much of its present
	// size a store gets in addition.
	Percent int
	OnFull  OnFull        // "" for invalidate
	Hold    time.Duration // how long OnFullHold lets a write wait
}

// Enabled reports whether stores are extended at all.
func (g Growth) Enabled() bool {
	return g.Threshold > 0 && g.Threshold < NeverThreshold && g.Percent > 0
}

// Exceeded reports whether so much of a store of a size is in use, both in
// bytes, that it is to be extended.
func (g Growth) Exceeded(used, size int64) bool { return g.Enabled() && used > g.Mark(size) }

// Mark returns the last number of bytes in use, of a store of a size, at which
// it is not yet extended.
func (g Growth) Mark(size int64) int64 {
	return int64(percent(uint64(g.Threshold), Extents(size), false))
}

// Tags of a snapshot's COW store by which it has a Growth of its own. lvm2
// keeps them.
const (
	tagOnFull    = "cowl.on_full="
	tagThreshold = "cowl.autoextend_threshold="
	tagPercent   = "cowl.autoextend_percent="
	tagHold      = "cowl.hold="
)

// OnFullTag returns the tag that gives a snapshot a policy.
func OnFullTag(p OnFull) string { return tagOnFull + string(p) }

// HoldTag returns the tag that says how long a snapshot lets writes wait.
func HoldTag(d time.Duration) string { return tagHold + d.String() }

// replaces reports whether a tag says what another one says, of cowl's.
func replaces(tag, old string) bool {
	for _, prefix := range []string{tagOnFull, tagThreshold, tagPercent, tagHold, tagMergeRate} {
		if strings.HasPrefix(tag, prefix) {
			return strings.HasPrefix(old, prefix)
		}
	}
	return false
}

// CheckGrowthTag returns an error of kind errs.Usage for a tag that looks like
// one of Growth's and is none.
func CheckGrowthTag(tag string) error {
	var g Growth
	_, err := g.apply(tag)
	return err
}

// GrowthOf returns the growth of an LV: what is given, as its tags alter it.
// Tags that make no sense alter nothing.
func (lv *LV) GrowthOf(g Growth) Growth {
	for _, tag := range lv.Tags {
		if next, err := g.apply(tag); err == nil {
			g = next
		}
	}
	return g
}

func (g Growth) apply(tag string) (Growth, error) {
	var err error
	if text, ok := strings.CutPrefix(tag, tagOnFull); ok {
		g.OnFull, err = ParseOnFull(text)
	} else if text, ok := strings.CutPrefix(tag, tagThreshold); ok {
		g.Threshold, err = ParseThreshold(text)
	} else if text, ok := strings.CutPrefix(tag, tagPercent); ok {
		g.Percent, err = ParseGrowPercent(text)
	} else if text, ok := strings.CutPrefix(tag, tagHold); ok {
		g.Hold, err = ParseHold(text)
	}
	return g, err
}

// ParseThreshold reads a threshold: 50 to 100.
func ParseThreshold(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < MinThreshold || n > NeverThreshold {
		return 0, errs.E(errs.Usage, "%q is no threshold for extending snapshots: use %d to %d, where %d is never.", text, MinThreshold, NeverThreshold, NeverThreshold)
	}
	return n, nil
}

// ParseGrowPercent reads by how much a store is extended: 1 to 1000 percent.
func ParseGrowPercent(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 1000 {
		return 0, errs.E(errs.Usage, "%q is no percentage by which snapshots are extended: use 1 to 1000.", text)
	}
	return n, nil
}

// MaxHold is the longest time that a write may be made to wait for space.
const MaxHold = 30 * 24 * time.Hour

// ParseHold reads how long a write may wait for space: 1s to 720h.
func ParseHold(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second || d > MaxHold {
		return 0, errs.E(errs.Usage, "%q is no time for which writes may wait: use a number with a unit such as 90s, 10m or 2h, at most 720h.", text)
	}
	return d, nil
}

// GrowSpec asks for more space for a snapshot's COW store, as much as its
// growth says.
type GrowSpec struct {
	Name string
	Used int64 // bytes of the store that are in use
	Need int64 // bytes of chunks that it is about to take, 0 if none
	Growth
}

// GrowExtents returns how many extents the store is to get, whether they are
// free or not: so many steps that it is not above its threshold any more when
// it has taken what it needs. It is 0 if the store is as large as it can ever
// use.
func (g *Group) GrowExtents(spec GrowSpec) (Extents, error) {
	lv, err := g.FindLV(spec.Name)
	if err != nil {
		return 0, err
	}
	s, ok := g.SnapshotOf(lv)
	if !ok {
		return 0, errs.E(errs.Usage, "Logical volume %s/%s is not a snapshot.", g.Name, spec.Name)
	}
	if err := g.checkExtendable(lv); err != nil {
		return 0, err
	}
	now := lv.Extents()
	// Of what its origin has gained since, the snapshot has nothing to keep.
	limit := g.ExtentsFor(CowMax(g.ExtentBytes(s.Size()), s.Segment.ChunkSize))
	want := now
	for size := g.ExtentBytes(want); want < limit && (want == now || spec.after(s.Segment.ChunkSize) > spec.Mark(size)); size = g.ExtentBytes(want) {
		want += max(1, percent(uint64(spec.Percent), want, true))
	}
	return max(now, min(want, limit)) - now, nil
}

// after is how much of the store will be in use: the chunks come with entries
// in metadata areas, a new one of which may begin.
func (s GrowSpec) after(chunk Sectors) int64 {
	return s.Used + s.Need + s.Need/(chunk.Bytes()/exceptionBytes) + 2*chunk.Bytes()
}

// GrowCow extends a snapshot's COW store by so many extents, or as many as are
// free. The error is of kind errs.NoSpace if there are none.
func (g *Group) GrowCow(name string, extents Extents) (*Change, error) {
	next := g.Clone()
	c := &Change{Group: next, LVs: []string{name}}
	lv := next.LV(name)
	maps, err := next.freeMaps(nil, c)
	if err != nil {
		return nil, err
	}
	free := mapsTotal(maps)
	if free == 0 {
		return nil, errs.E(errs.NoSpace, "Volume group %q has no free extents.", g.Name)
	}
	if err := next.grow(lv, min(extents, free), maps, true); err != nil {
		return nil, err
	}
	return c, nil
}

// Spare returns how many free extents may be allocated.
func (g *Group) Spare() Extents {
	var n Extents
	for _, pv := range g.PVs {
		if pv.Allocatable() {
			n += g.PVFree(pv)
		}
	}
	return n
}

// GrowPV takes over that a PV's device has become larger.
func (g *Group) GrowPV(key string, size Sectors) (*Change, error) {
	if err := g.checkResizeable(); err != nil {
		return nil, err
	}
	next := g.Clone()
	pv := next.PV(key)
	if pv == nil {
		return nil, errs.E(errs.NotFound, "Physical Volume %q not found in Volume Group %q.", key, g.Name)
	}
	count := min(Extents((size-min(size, pv.PEStart))/g.ExtentSize), MaxExtents)
	if size < pv.DevSize || count < pv.PECount {
		return nil, errs.E(errs.Conflict, "Physical volume %q has become smaller: %d sectors, and had %d.", pv.Device, size, pv.DevSize)
	}
	pv.DevSize, pv.PECount = size, count
	return &Change{Group: next}, nil
}

// PVSizeFor returns the size that a PV's device needs for so many extents more.
func (g *Group) PVSizeFor(pv *PV, more Extents) Sectors {
	return pv.PEStart + Sectors(pv.PECount+more)*g.ExtentSize
}
