package volume

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"cowl/internal/errs"
)

func TestGrowthOfTags(t *testing.T) {
	defaults := Growth{Threshold: 70, Percent: 20, OnFull: OnFullInvalidate, Hold: time.Minute}
	for _, c := range []struct {
		tags string
		want Growth
	}{
		{"", defaults},
		{"db cowl.on_full=hold", Growth{70, 20, OnFullHold, time.Minute}},
		{"cowl.hold=1h30m", Growth{70, 20, OnFullInvalidate, 90 * time.Minute}},
		{"cowl.autoextend_threshold=100 cowl.autoextend_percent=5", Growth{100, 5, OnFullInvalidate, time.Minute}},
		// lvm2 takes any tag: one that makes no sense must not disable the snapshot's protection.
		{"cowl.on_full=never cowl.autoextend_threshold=49 cowl.autoextend_percent=0 cowl.autoextend_threshold=x cowl.hold=-1s cowl.hold=9999999h cowl.other=1", defaults},
	} {
		lv := &LV{Tags: strings.Fields(c.tags)}
		if got := lv.GrowthOf(defaults); got != c.want {
			t.Errorf("%q: %+v, want %+v", c.tags, got, c.want)
		}
	}
	for _, tag := range []string{"cowl.on_full=", "cowl.on_full=never", "cowl.autoextend_threshold=49", "cowl.autoextend_threshold=101", "cowl.autoextend_percent=0", "cowl.autoextend_percent=1001", "cowl.hold=", "cowl.hold=5", "cowl.hold=1ms", "cowl.hold=721h"} {
		if err := CheckGrowthTag(tag); !errs.Is(err, errs.Usage) {
			t.Errorf("%s: %v", tag, err)
		}
	}
}

func TestChangeTags(t *testing.T) {
	g := testGroup(t, 20)
	g = must(t)(g.CreateLV(LVSpec{Name: "a", Size: extents(4), Tags: []string{"x"}}, testStamp()))
	for _, c := range []struct{ add, remove, want string }{
		{"y z", "", "x y z"},
		{"x", "", "y z x"},
		{"q", "q y nosuch", "z x"},
		{"cowl.on_full=hold", "", "z x cowl.on_full=hold"},
		{"cowl.on_full=readonly cowl.autoextend_percent=7", "z", "x cowl.on_full=readonly cowl.autoextend_percent=7"},
	} {
		g = must(t)(g.ChangeTags("a", strings.Fields(c.add), strings.Fields(c.remove)))
		if got := strings.Join(g.LV("a").Tags, " "); got != c.want {
			t.Errorf("+%s -%s: %q, want %q", c.add, c.remove, got, c.want)
		}
	}
	for _, tag := range []string{"a@b", "", "cowl.on_full=never"} {
		if _, err := g.ChangeTags("a", []string{tag}, nil); !errs.Is(err, errs.Usage) {
			t.Errorf("%q: %v", tag, err)
		}
	}
	if _, err := g.ChangeTags("nosuch", nil, nil); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
}

// LVM2's arithmetic: above the threshold, steps of a percentage of the present
// size, rounded up to extents; never beyond what the snapshot can use.
func TestGrowExtents(t *testing.T) {
	g := testGroup(t, 400)
	g = must(t)(g.CreateLV(LVSpec{Name: "base", Size: extents(100)}, testStamp()))
	g = snapshot(t, g, "base", "s", extents(10))
	const mib = 1 << 20
	for _, c := range []struct {
		used, need         int64
		threshold, percent int
		want               Extents
	}{
		{29 * mib, 0, 70, 20, 2}, // 10 -> 12: 60 %
		{39 * mib, 0, 70, 20, 5}, // 12, 15: 65 %
		{29 * mib, 0, 70, 1, 1},  // at least an extent
		{39 * mib, 0, 50, 100, 10},
		{20 * mib, 60 * mib, 70, 20, 23}, // 12, 15, 18, 22, 27, 33: 80 MiB are 61 %
		{39 * mib, 0, 70, 1000, 91},      // capped: 100 extents need one for metadata
		{39 * mib, 1 << 40, 70, 20, 91},
	} {
		n, err := g.GrowExtents(GrowSpec{Name: "s", Used: c.used, Need: c.need, Growth: Growth{Threshold: c.threshold, Percent: c.percent}})
		if err != nil || n != c.want {
			t.Errorf("%+v: %d extents, %v", c, n, err)
		}
	}
	// What the origin has gained since cannot be needed.
	g = must(t)(g.ExtendLV(ExtendSpec{Name: "base", Size: extents(200)}))
	full := must(t)(g.GrowCow("s", 91))
	n, err := full.GrowExtents(GrowSpec{Name: "s", Used: 400 * mib, Need: mib, Growth: Growth{Threshold: 70, Percent: 20}})
	if n != 0 || err != nil {
		t.Errorf("larger than useful by %d extents, %v", n, err)
	}
	for _, name := range []string{"base", "nosuch"} {
		if _, err := g.GrowExtents(GrowSpec{Name: name}); err == nil {
			t.Errorf("%s may grow by itself", name)
		}
	}
	g = must(t)(g.StartMerge(MergeSpec{Name: "s"}))
	if _, err := g.GrowExtents(GrowSpec{Name: "s"}); !errs.Is(err, errs.Conflict) {
		t.Errorf("a merging snapshot: %v", err)
	}
}

func TestGrowthThreshold(t *testing.T) {
	g := Growth{Threshold: 70, Percent: 20}
	for used, want := range map[int64]bool{0: false, 700: false, 701: true, 1000: true} {
		if got := g.Exceeded(used, 1000); got != want {
			t.Errorf("%d of 1000: %v", used, got)
		}
	}
	for _, g := range []Growth{{}, {Threshold: 100, Percent: 20}, {Threshold: 70}} {
		if g.Enabled() || g.Exceeded(1000, 1000) {
			t.Errorf("%+v extends", g)
		}
	}
}

// What is left is better than nothing; of nothing there is an error.
func TestGrowCowTakesWhatThereIs(t *testing.T) {
	g := testGroup(t, 10, 6)
	g = must(t)(g.CreateLV(LVSpec{Name: "base", Size: extents(8)}, testStamp()))
	g = snapshot(t, g, "base", "s", extents(1))
	g = must(t)(g.GrowCow("s", 3))
	if got := g.LV("s").Extents(); got != 4 {
		t.Errorf("%d extents", got)
	}
	g = must(t)(g.GrowCow("s", 100))
	if got := g.LV("s").Extents(); got != 8 || g.Free() != 0 {
		t.Errorf("%d extents, %d free", got, g.Free())
	}
	_, err := g.GrowCow("s", 1)
	wantErr(t, err, errs.NoSpace, `Volume group "vg" has no free extents.`)
	if err := Validate(g); err != nil {
		t.Error(err)
	}
}

func TestGrowPV(t *testing.T) {
	g := testGroup(t, 10)
	pv := g.PVs[0]
	size := g.PVSizeFor(pv, 5)
	c := must(t)(g.GrowPV(pv.Key, size+7))
	if got := c.PVs[0]; got.PECount != 15 || got.DevSize != size+7 || pv.PECount != 10 {
		t.Errorf("%+v of %+v", got, pv)
	}
	if !slices.Equal(c.FreeRuns(c.PVs[0]), []Run{{PV: pv.Key, Start: 0, Count: 15}}) {
		t.Errorf("free: %v", c.FreeRuns(c.PVs[0]))
	}
	if _, err := c.GrowPV(pv.Key, size); !errs.Is(err, errs.Conflict) {
		t.Errorf("smaller: %v", err)
	}
	if _, err := c.GrowPV("nosuch", size); !errs.Is(err, errs.NotFound) {
		t.Errorf("nosuch: %v", err)
	}
}

// A PV gains what there is room for, and loses only what is free.
func TestResizePV(t *testing.T) {
	g := testGroup(t, 20)
	for _, name := range []string{"a", "b"} {
		g = must(t)(g.CreateLV(LVSpec{Name: name, Size: extents(4)}, testStamp()))
	}
	g = must(t)(g.RemoveLV("a"))
	pv := g.PVs[0]
	used := Extents(8) // 4 of them free
	for _, c := range []struct {
		size Sectors
		want Extents // 0: refused
	}{
		{g.PVSizeFor(pv, 7) + 3, pv.PECount + 7},
		{g.PVSizeFor(pv, 0), pv.PECount},
		{pv.PEStart + Sectors(used)*g.ExtentSize, used},
		{pv.PEStart + Sectors(used)*g.ExtentSize - 1, 0},
		{pv.PEStart + g.ExtentSize - 1, 0},
		{minPVSectors - 1, 0}, {0, 0},
		{math.MaxUint64, MaxExtents},
	} {
		got, err := g.ResizePV(pv.Key, "disk", c.size)
		switch {
		case c.want == 0 && !errs.Is(err, errs.NoSpace):
			t.Errorf("%d sectors: %v", c.size, err)
		case c.want > 0 && (err != nil || Validate(got.Group) != nil):
			t.Errorf("%d sectors: %v", c.size, err)
		case c.want > 0 && got.Group.PV(pv.Key).PECount != min(c.want, Extents((maxSectors-pv.PEStart)/g.ExtentSize)):
			t.Errorf("%d sectors: %d extents, want %d", c.size, got.Group.PV(pv.Key).PECount, c.want)
		}
	}
	if _, err := g.ResizePV("nosuch", "disk", 1<<30); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
}
