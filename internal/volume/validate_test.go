package volume

import (
	"strings"
	"testing"

	"cowl/internal/errs"
)

// TestValidate alters a sound group in one place each.
func TestValidate(t *testing.T) {
	sound := testGroup(t, 20, 20)
	sound = must(t)(sound.CreateLV(LVSpec{Name: "base", Size: extents(4)}, testStamp()))
	sound = must(t)(sound.CreateLV(LVSpec{Name: "wide", Size: extents(30)}, testStamp()))
	sound = snapshot(t, sound, "base", "s1", extents(1))
	sound = snapshot(t, sound, "base", "s2", extents(1))
	seg := func(g *Group, lv string, i int) *Segment { return &g.LV(lv).Segments[i] }
	for name, c := range map[string]struct {
		alter func(g *Group)
		want  string
	}{
		"sound":             {func(*Group) {}, ""},
		"group name":        {func(g *Group) { g.Name = "../etc" }, "its name is invalid"},
		"group id":          {func(g *Group) { g.ID = "short" }, `the group has the invalid id "short"`},
		"no extent size":    {func(g *Group) { g.ExtentSize = 0 }, "extent size of 0 sectors"},
		"huge extents":      {func(g *Group) { g.ExtentSize = 1 << 40 }, "extent size of 1099511627776 sectors"},
		"no PVs":            {func(g *Group) { g.PVs = nil }, "has no physical volumes"},
		"PV key twice":      {func(g *Group) { g.PVs[1].Key = "pv0" }, `the physical volume key "pv0" is empty or used twice`},
		"no PV key":         {func(g *Group) { g.PVs[1].Key = "" }, `the physical volume key "" is empty or used twice`},
		"PV id twice":       {func(g *Group) { g.PVs[1].ID = g.PVs[0].ID }, "physical volume pv0 and physical volume pv1 have the same id"},
		"PV id is an LV's":  {func(g *Group) { g.PVs[1].ID = g.LVs[0].ID }, "physical volume pv1 and logical volume base have the same id"},
		"PV too large":      {func(g *Group) { g.PVs[1].PECount = 1 << 33 }, "physical volume pv1 is impossibly large"},
		"PV ends at 2^64":   {func(g *Group) { g.PVs[1].PEStart = 1<<64 - 8 }, "physical volume pv1 is impossibly large"},
		"PV overflows":      {func(g *Group) { g.ExtentSize = 1<<32 - 1; g.PVs[1].PECount = 1<<32 - 1 }, "is impossibly large"},
		"LV name":           {func(g *Group) { g.LV("wide").Name = "a/b" }, `logical volume name "a/b" is invalid`},
		"LV name twice":     {func(g *Group) { g.LV("wide").Name = "base" }, `there are two logical volumes "base"`},
		"LV id":             {func(g *Group) { g.LV("wide").ID = "" }, `logical volume wide has the invalid id ""`},
		"LV without size":   {func(g *Group) { g.LV("wide").Segments = nil }, "logical volume wide has no segments"},
		"gap":               {func(g *Group) { seg(g, "wide", 1).Start++ }, "logical volume wide: segment 2 starts at extent"},
		"overlap":           {func(g *Group) { seg(g, "wide", 1).Start-- }, "logical volume wide: segment 2 starts at extent"},
		"empty segment":     {func(g *Group) { seg(g, "wide", 1).Count = 0 }, "logical volume wide: segment 2 has 0 extents"},
		"segment too long":  {func(g *Group) { seg(g, "wide", 0).Count = 1 << 40 }, "logical volume wide: segment 1 has 1099511627776 extents"},
		"no stripes":        {func(g *Group) { seg(g, "wide", 0).Stripes = nil }, "extents on 0 stripes"},
		"uneven stripes":    {func(g *Group) { s := seg(g, "base", 0); s.Stripes = []Area{{"pv0", 0}, {"pv0", 1}, {"pv0", 2}} }, "segment 1 has 4 extents on 3 stripes"},
		"stripe size":       {func(g *Group) { s := seg(g, "base", 0); s.Stripes = []Area{{"pv0", 0}, {"pv0", 2}}; s.StripeSize = 96 }, "stripe size of 96 sectors"},
		"no stripe size":    {func(g *Group) { s := seg(g, "base", 0); s.Stripes = []Area{{"pv0", 0}, {"pv0", 2}} }, "stripe size of 0 sectors"},
		"two good stripes":  {func(g *Group) { s := seg(g, "base", 0); s.Stripes = []Area{{"pv0", 0}, {"pv0", 2}}; s.StripeSize = 128 }, ""},
		"no such PV":        {func(g *Group) { seg(g, "base", 0).Stripes[0].PV = "pv9" }, `logical volume base: segment 1 is on "pv9", which does not exist`},
		"beyond the PV":     {func(g *Group) { seg(g, "base", 0).Stripes[0].Start = 18 }, "takes extents 18 to 21 of pv0, which has 20"},
		"far beyond the PV": {func(g *Group) { seg(g, "base", 0).Stripes[0].Start = 1<<64 - 2 }, "of pv0, which has 20"},
		"allocated twice":   {func(g *Group) { seg(g, "base", 0).Stripes[0].Start = 5 }, "of pv0 belongs to both"},
		"mixed snapshot": {func(g *Group) {
			h := g.LV("snapshot0")
			h.Segments = append(h.Segments, Segment{Start: 4, Count: 1, Type: "zero"})
		}, "logical volume snapshot0 mixes a snapshot with other segments"},
		"hidden in another": {func(g *Group) {
			lv := g.LV("wide")
			lv.Segments = []Segment{{Count: 1, Type: "zero"}, {Start: 1, Count: 1, Type: Snapshot}}
		}, "logical volume wide mixes a snapshot with other segments"},
		"no origin":          {func(g *Group) { seg(g, "snapshot0", 0).Origin = "x" }, `the origin "x" of snapshot0 does not exist`},
		"origin is a holder": {func(g *Group) { seg(g, "snapshot0", 0).Origin = "snapshot1" }, `the origin "snapshot1" of snapshot0 does not exist`},
		"its own origin":     {func(g *Group) { seg(g, "snapshot0", 0).Origin = "snapshot0" }, `the origin "snapshot0" of snapshot0 does not exist`},
		"no store":           {func(g *Group) { seg(g, "snapshot0", 0).Store = "x" }, `the store "x" of snapshot0 does not exist`},
		"store is a holder":  {func(g *Group) { seg(g, "snapshot0", 0).Store = "snapshot1" }, `the store "snapshot1" of snapshot0 does not exist`},
		"one store for two":  {func(g *Group) { seg(g, "snapshot0", 0).Store = "s2" }, "s2 is the store of both snapshot0 and snapshot1"},
		"store is origin":    {func(g *Group) { seg(g, "snapshot0", 0).Store = "base" }, "base, the origin of snapshot0, is itself the store of snapshot0"},
		"tower":              {func(g *Group) { s := seg(g, "snapshot1", 0); s.Origin, s.Count = "s1", 1 }, "s1, the origin of snapshot1, is itself the store of snapshot0"},
		"ring": {func(g *Group) {
			a, b := seg(g, "snapshot0", 0), seg(g, "snapshot1", 0)
			a.Origin, b.Origin, a.Count, b.Count = "s2", "s1", 1, 1
		}, "is itself the store of"},
		"two merges":         {func(g *Group) { seg(g, "snapshot0", 0).Merging = true; seg(g, "snapshot1", 0).Merging = true }, "both s1 and s2 are merging into base"},
		"one merge":          {func(g *Group) { seg(g, "snapshot0", 0).Merging = true }, ""},
		"no chunk size":      {func(g *Group) { seg(g, "snapshot0", 0).ChunkSize = 0 }, "snapshot0 has a chunk size of 0 sectors"},
		"odd chunk size":     {func(g *Group) { seg(g, "snapshot0", 0).ChunkSize = 12 }, "snapshot0 has a chunk size of 12 sectors"},
		"huge chunks":        {func(g *Group) { seg(g, "snapshot0", 0).ChunkSize = 1 << 40 }, "snapshot0 has a chunk size of"},
		"larger than origin": {func(g *Group) { seg(g, "snapshot0", 0).Count = 5 }, "snapshot0 has 5 extents, its origin base only 4"},
		"origin grew":        {func(g *Group) { seg(g, "snapshot0", 0).Count = 3 }, ""},
	} {
		g := sound.Clone()
		c.alter(g)
		err := Validate(g)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (!errs.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
		touch(g) // nothing that reads a group may panic on one that is not sound
	}
	if err := Validate(sound); err != nil {
		t.Errorf("the copies were not deep: %v", err)
	}
}

// touch asks everything that reports ask of a group that nobody validated.
func touch(g *Group) {
	for _, lv := range g.LVs {
		g.IsVisible(lv)
		g.SnapshotsOf(lv)
		g.MergingInto(lv)
		g.UnsupportedType(lv)
		g.LVSize(lv)
	}
	g.Visible()
	g.Free()
	for _, pv := range g.PVs {
		g.PVUsed(pv)
	}
	g.NextLVName()
}
