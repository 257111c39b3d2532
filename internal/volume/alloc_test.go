package volume

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
)

// withFree returns a group whose PVs have the given free runs, as
// {first, last} pairs; a volume of unknown type takes the rest. have are the
// runs of the volume "a", which it has already.
func withFree(t *testing.T, free [][][2]Extents, have []Run) *Group {
	t.Helper()
	counts := make([]Extents, len(free))
	for i := range counts {
		counts[i] = 40
	}
	g := testGroup(t, counts...)
	taken := &LV{Name: "rest", ID: testID(), Status: []string{StatusRead, StatusVisible}}
	var at Extents
	block := func(pv string, from, to Extents) {
		if from < to {
			taken.Segments = append(taken.Segments, Segment{Start: at, Count: to - from, Type: Striped, Stripes: []Area{{pv, from}}})
			at += to - from
		}
	}
	for i, runs := range free {
		key, next := fmt.Sprintf("pv%d", i), Extents(0)
		runs = slices.Clone(runs)
		for _, h := range have {
			if h.PV == key {
				runs = append(runs, [2]Extents{h.Start, h.End() - 1})
			}
		}
		slices.SortFunc(runs, func(a, b [2]Extents) int { return cmp.Compare(a[0], b[0]) })
		for _, r := range runs {
			block(key, next, r[0])
			next = r[1] + 1
		}
		block(key, next, 40)
	}
	g.LVs = []*LV{taken}
	if have != nil {
		a := &LV{Name: "a", ID: testID(), Status: []string{StatusRead, StatusWrite, StatusVisible}}
		a.appendRuns(have)
		g.LVs = append(g.LVs, a)
	}
	if err := Validate(g); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestAllocationOrder holds layouts that lvm2 2.03.16 chose. TestAllocationIsLVMs
// asks it anew, where it is installed.
func TestAllocationOrder(t *testing.T) {
	type runs = [][2]Extents
	for name, c := range map[string]struct {
		free   []runs
		have   []Run
		need   Extents
		policy string
		want   string
	}{
		"the first PV that has room":      {free: []runs{{{10, 14}}, {{6, 14}}, {{11, 14}}}, need: 2, want: "pv0:10+2"},
		"the most useful PV first":        {free: []runs{{{12, 14}}, {{6, 14}}, {{11, 14}}}, need: 11, want: "pv1:6+9 pv0:12+2"},
		"an exact fit":                    {free: []runs{{{0, 0}, {5, 7}}}, need: 1, want: "pv0:0+1"},
		"not if it leaves as much":        {free: []runs{{{0, 3}, {8, 10}}}, need: 1, want: "pv0:0+1"},
		"nor if it leaves less":           {free: []runs{{{0, 2}, {7, 10}}}, need: 3, want: "pv0:7+3"},
		"the last of equals that fit":     {free: []runs{{{16, 16}, {18, 18}}}, need: 1, want: "pv0:18+1"},
		"the PV that was begun":           {free: []runs{{{5, 9}}, {{0, 6}, {11, 19}}, {{0, 21}}}, need: 35, want: "pv2:0+22 pv1:11+9 pv1:0+4"},
		"behind the volume":               {free: []runs{{{11, 11}, {20, 25}}, nil}, have: []Run{{"pv0", 0, 10}, {"pv0", 12, 8}}, need: 2, want: "pv0:0+10 pv0:12+10"},
		"cling to the first segment's PV": {free: []runs{{{20, 20}}, {{1, 9}, {11, 11}}}, have: []Run{{"pv0", 0, 20}, {"pv1", 0, 1}, {"pv1", 10, 1}}, need: 7, want: "pv0:0+20 pv1:0+1 pv1:10+2 pv0:20+1 pv1:1+5"},
		"contiguous":                      {free: []runs{{{0, 3}}, {{0, 5}}}, need: 5, policy: AllocContiguous, want: "pv1:0+5"},
		"contiguous impossible":           {free: []runs{{{0, 3}}, {{0, 5}}}, need: 7, policy: AllocContiguous, want: "Insufficient suitable contiguous allocatable extents for logical volume b: 7 more required"},
		"cling stays on one PV":           {free: []runs{{{0, 4}, {6, 20}}, {{0, 4}, {6, 11}}}, need: 20, policy: AllocCling, want: "pv0:6+15 pv0:0+5"},
		"cling does not leave it":         {free: []runs{{{0, 4}, {6, 20}}, {{0, 4}, {6, 11}}}, need: 21, policy: AllocCling, want: "Insufficient suitable allocatable extents for logical volume b: 1 more required"},
	} {
		g := withFree(t, c.free, c.have)
		g.Allocation = c.policy
		var change *Change
		var err error
		lv := "a"
		if c.have != nil {
			change, err = g.ExtendLV(ExtendSpec{Name: "a", Size: extents(c.need), Relative: true})
		} else {
			lv = "b"
			change, err = g.CreateLV(LVSpec{Name: "b", Size: extents(c.need)}, testStamp())
		}
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = layout(change.Group.LV(lv))
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
