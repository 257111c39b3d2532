package engine

import (
	"slices"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/filter/fault"
	"cowl/internal/errs"
	"cowl/internal/metastore"
	"cowl/internal/volume"
)

func newPV(t *testing.T, dev block.Device, path string) *metastore.PV {
	t.Helper()
	pv, err := metastore.CreatePV(metastore.Source{Path: path, Dev: dev}, metastore.PVOptions{ID: newIDs(77)()})
	if err != nil {
		t.Fatal(err)
	}
	return pv
}

func TestAddAndRemovePVs(t *testing.T) {
	g, devs := fresh(t, 1)
	more := memory(1, 4*mib)[0]
	pv := newPV(t, more, "/dev/more")
	free := g.Model().Free()
	must(t)(g.AddPVs(ctx, []*metastore.PV{pv}))
	if got := g.Model().Free(); got <= free {
		t.Errorf("%d free extents after, %d before", got, free)
	}
	must(t)(g.CreateLV(ctx, lv("base", 2, "pv1")))
	write(t, opened(t, g, "base"), 0, 5, extent)
	_, err := g.RemovePVs(ctx, []volume.UUID{pv.ID()})
	wantKind(t, "remove a PV in use", err, errs.Busy)
	g.Close()

	g = mustOpen(t, append(devs, more))
	base, err := g.Open(ctx, "base", false)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "base", base, 0, 5, extent)
	closeDev(t, base)
	must(t)(g.RemoveLVs(ctx, []string{"base"}))
	must(t)(g.RemovePVs(ctx, []volume.UUID{pv.ID()}))
	_, err = g.RemovePVs(ctx, []volume.UUID{pv.ID()})
	wantKind(t, "remove a PV twice", err, errs.NotFound)
	if pv, err := metastore.ReadPV(metastore.Source{Dev: more}); err != nil || pv.InUse() {
		t.Errorf("the removed PV: %v, in use %v", err, pv.InUse())
	}
}

func TestPVOfAnotherGroupIsRefused(t *testing.T) {
	g, _ := fresh(t, 1)
	other := memory(1, 4*mib)
	found(t, other)
	pv, err := metastore.ReadPV(metastore.Source{Path: "/dev/other", Dev: other[0]})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.AddPVs(ctx, []*metastore.PV{pv}); err == nil {
		t.Error("took a PV that is in a group")
	}
	must(t)(g.CreateLV(ctx, lv("base", 2, ""))) // nothing of it is left
}

// A PV that joins or leaves is the one place where not every disk has both
// versions of the metadata.
func TestEveryIOFailsWhilePVsComeAndGo(t *testing.T) {
	injected := 0
	for _, mode := range []fault.Rule{{}, {After: true}, {Always: true}, {Always: true, After: true}} {
		for _, only := range []string{"", "pv0", "pv1"} {
			for n := 1; ; n++ {
				rule := mode
				rule.Nth, rule.Device = n, only
				if !comeAndGo(t, rule) {
					break
				}
				injected++
			}
		}
	}
	// Both fail, and what the new PV was told to write it has written.
	for n := 1; n < 16; n++ {
		for m := 1; m < 16; m++ {
			comeAndGo(t, fault.Rule{Device: "pv0", Nth: n, Always: true}, fault.Rule{Device: "pv1", Nth: m, Always: true, After: true})
			injected++
		}
	}
	t.Logf("%d faults", injected)
}

func comeAndGo(t *testing.T, rule ...fault.Rule) (fired bool) {
	t.Helper()
	below := memory(2, 2*mib)
	found(t, below[:1])
	script := fault.New()
	disks := []*patient{{script.Wrap("pv0", below[0])}, {script.Wrap("pv1", below[1])}}
	pv := newPV(t, disks[1], "/dev/test1")
	g, err := open([]block.Device{disks[0]})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rule {
		script.Add(r)
	}
	_, err = g.AddPVs(ctx, []*metastore.PV{pv})
	if err == nil {
		_, err = g.RemovePVs(ctx, []volume.UUID{pv.ID()})
	}
	fired = script.Fired() > 0
	check := func(when string, pvs ...int) {
		f, ferr := assemble(below)
		if ferr == nil {
			ferr = f.Unusable
		}
		if ferr != nil {
			t.Errorf("%+v, %s (the change: %v): %v", rule, when, err, ferr)
			return
		}
		if n := len(f.Group.PVs); !slices.Contains(pvs, n) {
			t.Errorf("%+v, %s (the change: %v): %d PVs, want %d", rule, when, err, n, pvs)
		}
	}
	if err == nil {
		check("then the power", 1)
	} else {
		check("then the power", 1, 2)
	}
	for i, d := range disks {
		d.Device = below[i]
	}
	if _, err := g.CreateLV(ctx, lv("after", 1, "pv0")); err != nil {
		t.Errorf("%+v: when the disks are well again: %v", rule, err)
	}
	check("then used", len(g.Model().PVs))
	if f, err := assemble(below); err == nil && f.Group.LV("after") == nil {
		t.Errorf("%+v: a change that succeeded does not count", rule)
	}
	g.Close()
	return fired
}
