package volume

import (
	"slices"
	"testing"

	"cowl/internal/errs"
	"cowl/internal/format/config"
)

// thinGroup is a group with a thin pool, a volume in it and a snapshot of that, as
// lvm2 writes them, and a mirror.
func thinGroup(t *testing.T) *Group {
	text := func(key, value string) config.Node { return config.Node{Key: key, Value: config.StringValue(value)} }
	lv := func(name string, t SegmentType, extra ...config.Node) *LV {
		return &LV{Name: name, Status: []string{StatusRead, StatusWrite, StatusVisible}, Segments: []Segment{{Count: 4, Type: t, Extra: extra}}}
	}
	g := testGroup(t, 100)
	g.LVs = append(g.LVs, lv("pool", ThinPool), lv("thin", Thin, text("thin_pool", "pool")),
		lv("old", Thin, text("thin_pool", "pool"), text("origin", "thin")), lv("mirrored", "mirror"))
	return g
}

// What is a snapshot in a pool must be told from what is a volume: one is removed
// by cleanup, the other is somebody's data.
func TestThinVolumes(t *testing.T) {
	g := thinGroup(t)
	pool, thin, old := g.LV("pool"), g.LV("thin"), g.LV("old")
	if !thin.IsThin() || pool.IsThin() || !pool.IsPool() || thin.IsPool() || thin.Pool() != "pool" || pool.Pool() != "" {
		t.Errorf("pool or volume? %+v %+v", pool, thin)
	}
	if thin.ThinOrigin() != "" || old.ThinOrigin() != "thin" || g.LV("mirrored").ThinOrigin() != "" {
		t.Errorf("origins are %q and %q", thin.ThinOrigin(), old.ThinOrigin())
	}
	if s := g.ThinSnapshotsOf(thin); len(s) != 1 || s[0] != old {
		t.Errorf("snapshots of thin: %v", s)
	}
	if s := g.ThinSnapshotsOf(pool); s != nil {
		t.Errorf("snapshots of the pool: %v", s)
	}
	if names := g.ThinVolumesOf(pool); !slices.Equal(names, []string{"thin", "old"}) {
		t.Errorf("volumes of the pool: %q", names)
	}
}

// lvm2 takes snapshots of what the engine cannot run, and of a pool neither does.
func TestPlanSnapshotOfAnyType(t *testing.T) {
	g := thinGroup(t)
	for _, name := range []string{"mirrored", "thin"} {
		spec := SnapshotSpec{Origin: name, Name: "s", Size: Size{Extents: 2}}
		if c, err := g.PlanSnapshot(spec, testStamp()); err != nil || c.Group.LV("s").Extents() != 2 {
			t.Errorf("plan a snapshot of %s: %v", name, err)
		}
		if _, err := g.CreateSnapshot(spec, testStamp()); !errs.Is(err, errs.Unsupported) {
			t.Errorf("the engine's snapshot of %s: %v", name, err)
		}
	}
	if _, err := g.PlanSnapshot(SnapshotSpec{Origin: "pool", Name: "s", Size: Size{Extents: 2}}, testStamp()); !errs.Is(err, errs.Unsupported) {
		t.Errorf("a snapshot of a pool: %v", err)
	}
}
