package engine

import (
	"testing"

	"cowl/internal/block"
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
