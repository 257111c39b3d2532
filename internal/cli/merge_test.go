package cli

import (
	"testing"

	"cowl/internal/manager"
	"cowl/internal/volume"
)

// lvm2 ends a merge in two commits: after the first the store is a volume like any
// other. Who watches the merge then must not say that it has stopped.
func TestMergeEndsInTwoSteps(t *testing.T) {
	store := &volume.LV{Name: "before", Segments: []volume.Segment{{Type: volume.Striped, Count: 1}}}
	s := &manager.Status{Group: &volume.Group{Name: "vg", LVs: []*volume.LV{store}}}
	if p, err := mergedPercent(s, "vg", "before"); err != nil || p != 100 {
		t.Errorf("%v %% are merged, %v", p, err)
	}
	holder := &volume.LV{Name: "snapshot0", Segments: []volume.Segment{{Type: volume.Snapshot, Origin: "data", Store: "before", Merging: true}}}
	s.Group.LVs = append(s.Group.LVs, &volume.LV{Name: "data"}, holder)
	if p, err := mergedPercent(s, "vg", "before"); err == nil {
		t.Errorf("%v %% of a merge are merged that is not active", p)
	}
}
