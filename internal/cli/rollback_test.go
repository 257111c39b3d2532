package cli

import (
	"strings"
	"testing"

	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// TestUndoing asks what is said of a snapshot before it is merged.
func TestUndoing(t *testing.T) {
	const mib = volume.Sectors(1 << 20 >> 9)
	cow := func(used, total volume.Sectors) manager.LVStatus {
		return manager.LVStatus{Cow: &manager.CowStatus{Allocated: used, Total: total, Metadata: 8}}
	}
	grows := cow(1*mib, 2*mib)
	grows.Cow.Threshold = 70
	lost := cow(1*mib, 2*mib)
	lost.Cow.Invalid, lost.Cow.Reason = true, "it overflowed"
	for _, c := range []struct {
		name   string
		lvs    map[string]manager.LVStatus
		copied int64
		want   []string // in the warnings
	}{
		{"inactive", nil, -1, nil},
		{"room in the other", map[string]manager.LVStatus{"a": cow(3*mib, 8*mib), "b": cow(1*mib, 8*mib)}, 3<<20 - 4096, nil},
		{"none", map[string]manager.LVStatus{"a": cow(3*mib, 8*mib), "b": cow(1*mib, 2*mib)}, 3<<20 - 4096,
			[]string{"<3.00 MiB, and snapshot vg/b has room for 1.00 MiB of that: it may overflow"}},
		{"grows", map[string]manager.LVStatus{"a": cow(3*mib, 8*mib), "b": grows}, 3<<20 - 4096, nil},
		{"lost already", map[string]manager.LVStatus{"a": cow(3*mib, 8*mib), "b": lost}, 3<<20 - 4096, nil},
		{"open", map[string]manager.LVStatus{"lv": {Opens: 1}, "a": cow(8, 8*mib)}, 0, []string{"vg/lv or vg/a is in use"}},
	} {
		u, err := newUndoing(&manager.Status{Group: twoSnapshots(t), LVs: c.lvs}, "a")
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if u.origin != "lv" || u.copied != c.copied || len(u.warnings) != len(c.want) {
			t.Errorf("%s: origin %s, %d bytes, warnings %q", c.name, u.origin, u.copied, u.warnings)
			continue
		}
		for i, w := range c.want {
			if !strings.Contains(u.warnings[i], w) {
				t.Errorf("%s: %q does not say %q", c.name, u.warnings[i], w)
			}
		}
	}
	if _, err := newUndoing(&manager.Status{Group: twoSnapshots(t), LVs: map[string]manager.LVStatus{"a": lost}}, "a"); !errs.Is(err, errs.Corrupt) {
		t.Errorf("of a snapshot that is lost: %v", err)
	}
}

// twoSnapshots is a group vg with a volume lv and its snapshots a and b.
func twoSnapshots(t *testing.T) *volume.Group {
	t.Helper()
	stamp := volume.Stamp{NewID: randomID, Time: 1}
	pv := volume.PVSpec{ID: randomID(), Device: "/dev/sda", DevSize: 1 << 18, PEStart: 2048}
	g, err := volume.NewGroup(volume.GroupSpec{Name: "vg", PVs: []volume.PVSpec{pv}}, stamp)
	if err != nil {
		t.Fatal(err)
	}
	size := volume.Size{Bytes: 8 << 20}
	c, err := g.CreateLV(volume.LVSpec{Name: "lv", Size: size}, stamp)
	for _, name := range []string{"a", "b"} {
		if err == nil {
			c, err = c.Group.CreateSnapshot(volume.SnapshotSpec{Origin: "lv", Name: name, Size: size}, stamp)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return c.Group
}
