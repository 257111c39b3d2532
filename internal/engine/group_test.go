package engine

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/volume"
)

func wantKind(t *testing.T, what string, err error, kind errs.Kind) {
	t.Helper()
	if !errs.Is(err, kind) {
		t.Errorf("%s: got %v (%v), want an error of kind %v", what, err, errs.KindOf(err), kind)
	}
}

func wantActive(t *testing.T, g *Group, names ...string) {
	t.Helper()
	got := slices.Sorted(maps.Keys(active(g)))
	if !slices.Equal(got, names) {
		t.Errorf("active: %q, want %q", got, names)
	}
}

// A label or file system that lay where the volume now begins must not be
// found in it.
func TestNewVolumeBeginsWithZeroes(t *testing.T) {
	g, _ := fresh(t, 1)
	res := must(t)(g.CreateLV(ctx, lv("base", 2, "pv0")))
	if !slices.Equal(res.Names, []string{"base"}) {
		t.Errorf("created %q", res.Names)
	}
	d := opened(t, g, "base")
	expect(t, "beginning", d, 0, 0, 4096)
	expect(t, "the rest", d, 4096, 0xee, 2*extent-4096)
	if d.Size() != 2*extent {
		t.Errorf("size %d", d.Size())
	}
	wantActive(t, g, "base")
}

func TestVolumeOverSeveralPVsSurvivesReopening(t *testing.T) {
	devs := memory(2, 2*mib)
	found(t, devs)
	g := mustOpen(t, devs)
	must(t)(g.CreateLV(ctx, volume.LVSpec{Name: "base", Size: volume.Size{Percent: 100, Of: volume.OfFree}}))
	wantActive(t, g) // the group is not active, so the volume is not
	d := opened(t, g, "base")
	wantActive(t, g, "base")
	n := int(d.Size())
	if n != 2*mib {
		t.Fatalf("size %d", n)
	}
	write(t, d, 0, 7, n)
	closeDev(t, d)
	wantActive(t, g)
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	d = opened(t, mustOpen(t, devs), "base")
	expect(t, "after reopening", d, 0, 7, n)
}

func TestSnapshotsKeepTheirInstant(t *testing.T) {
	g, devs := fresh(t, 2)
	must(t)(g.CreateLV(ctx, lv("a", 4, "pv0")))
	must(t)(g.CreateLV(ctx, lv("b", 4, "pv0")))
	a, b := opened(t, g, "a"), opened(t, g, "b")
	write(t, a, 0, 1, 4*extent)
	write(t, b, 0, 2, 4*extent)
	res := must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("a", "sa", 8, "pv1"), snapOf("b", "sb", 8, "pv1"), snapOf("a", "ro", 8, "")}))
	if !slices.Equal(res.Names, []string{"sa", "sb", "ro"}) {
		t.Errorf("created %q", res.Names)
	}
	write(t, a, 1000, 3, 100*kib)
	write(t, b, 0, 4, 4*extent)
	sa, sb := opened(t, g, "sa"), opened(t, g, "sb")
	expect(t, "sa", sa, 0, 1, 4*extent)
	expect(t, "sb", sb, 0, 2, 4*extent)
	write(t, sa, 0, 5, 10)
	expect(t, "a under a written snapshot", a, 0, 1, 1000)
	expect(t, "the sibling", opened(t, g, "ro"), 0, 1, 4*extent)
	wantActive(t, g, "a", "b", "ro", "sa", "sb")
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := sa.ReadAt(make([]byte, 1), 0)
	wantKind(t, "read after the group was closed", err, errs.Conflict)

	g = mustOpen(t, devs)
	must(t)(g.Activate(ctx))
	sa = opened(t, g, "sa")
	expect(t, "what was written to sa", sa, 0, 5, 10)
	expect(t, "sa after reopening", sa, 10, 1, 4*extent-10)
	expect(t, "sb after reopening", opened(t, g, "sb"), 0, 2, 4*extent)
	expect(t, "a after reopening", opened(t, g, "a"), 1000, 3, 100*kib)
	st := g.Status().LVs
	if c := st["sb"].Cow; c == nil || c.Allocated <= c.Metadata || c.Total != 5*extent/512 { // no larger than it can use
		t.Errorf("usage of sb: %+v", st["sb"].Cow)
	}
	if c := st["ro"].Cow; c == nil || c.Invalid || st["a"].Cow != nil {
		t.Errorf("usage of ro: %+v, of a: %+v", c, st["a"].Cow)
	}
}

// The numbers that lvs makes its percentage of.
func TestUsageOfAnEmptyStore(t *testing.T) {
	g, _ := fresh(t, 1)
	must(t)(g.CreateLV(ctx, lv("base", 16, "")))
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("base", "s", 16, "")}))
	want := CowStatus{Allocated: 16, Total: 16 * extent / 512, Metadata: 16, OnFull: "invalidate"}
	if got := g.Status().LVs["s"].Cow; *got != want {
		t.Errorf("got %+v, want %+v", *got, want)
	}
	write(t, opened(t, g, "base"), 5*4096, 1, 3*4096)
	want.Allocated += 3 * 8
	if got := g.Status().LVs["s"].Cow; *got != want {
		t.Errorf("three chunks later: got %+v, want %+v", *got, want)
	}
}

func TestOverflowedSnapshotReadsAsErrors(t *testing.T) {
	g, devs := fresh(t, 1)
	must(t)(g.CreateLV(ctx, lv("base", 4, "")))
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("base", "s", 1, "")}))
	base, s := opened(t, g, "base"), opened(t, g, "s")
	write(t, base, 0, 1, 4*extent) // succeeds, and is too much for the store
	if err := base.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadAt(make([]byte, 512), 0); err == nil {
		t.Error("an overflowed snapshot can be read")
	}
	if c := g.Status().LVs["s"].Cow; !c.Invalid || c.Reason == "" {
		t.Errorf("status %+v", c)
	}
	_, err := g.Merge(ctx, volume.MergeSpec{Name: "s"})
	wantKind(t, "merge", err, errs.Conflict)
	closeDev(t, s)
	g.Close()

	g = mustOpen(t, devs)
	must(t)(g.Activate(ctx))
	if c := g.Status().LVs["s"].Cow; !c.Invalid {
		t.Errorf("after reopening: %+v", c)
	}
	expect(t, "the origin", opened(t, g, "base"), 0, 1, 4*extent)
	must(t)(g.RemoveLVs(ctx, []string{"s"}))
	wantActive(t, g, "base")
}

func TestWhatIsOpenStays(t *testing.T) {
	g, _ := fresh(t, 1)
	must(t)(g.CreateLV(ctx, lv("base", 2, "")))
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("base", "s", 2, "")}))
	base, err := g.Open(ctx, "base", false)
	if err != nil {
		t.Fatal(err)
	}
	again := opened(t, g, "base")
	if n := g.Status().LVs["base"].Opens; n != 2 {
		t.Errorf("%d openers, want 2", n)
	}
	closeDev(t, again)
	wantKind(t, "second close", again.Close(), errs.Usage)
	_, err = g.Deactivate(ctx)
	wantKind(t, "deactivate", err, errs.Busy)
	_, err = g.Deactivate(ctx, "s") // would take its origin along
	wantKind(t, "deactivate the snapshot", err, errs.Busy)
	_, err = g.RemoveLVs(ctx, []string{"s", "base"})
	wantKind(t, "remove", err, errs.Busy)
	_, err = g.RemoveGroup(ctx)
	wantKind(t, "remove the group", err, errs.Busy)
	wantActive(t, g, "base", "s")
	must(t)(g.RemoveLVs(ctx, []string{"s"})) // not open itself
	write(t, base, 0, 9, 10)
	closeDev(t, base)
	must(t)(g.Deactivate(ctx))
	wantActive(t, g)
	_, err = base.ReadAt(make([]byte, 1), 0)
	wantKind(t, "read of a closed device", err, errs.Usage)
}

func TestRemoveInOneCommit(t *testing.T) {
	g, _ := fresh(t, 1)
	must(t)(g.CreateLV(ctx, lv("a", 2, "")))
	must(t)(g.CreateLV(ctx, lv("b", 2, "")))
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("a", "s1", 2, ""), snapOf("a", "s2", 2, "")}))
	before := g.Status().Model.Seqno
	res := must(t)(g.RemoveLVs(ctx, []string{"a", "s2", "b"}))
	if !slices.Equal(res.Names, []string{"s1", "s2", "a", "b"}) {
		t.Errorf("removed %q", res.Names)
	}
	if after := g.Status().Model; after.Seqno != before+1 || len(after.LVs) != 0 {
		t.Errorf("sequence number %d after %d, %d volumes left", after.Seqno, before, len(after.LVs))
	}
	wantActive(t, g)
	_, err := g.RemoveLVs(ctx, []string{"a"})
	wantKind(t, "remove again", err, errs.NotFound)
}

func TestReadOnlyVolumes(t *testing.T) {
	g, devs := fresh(t, 1)
	must(t)(g.CreateLV(ctx, lv("base", 2, "")))
	spec := snapOf("base", "s", 2, "")
	spec.ReadOnly = true
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{spec}))
	s := opened(t, g, "s")
	if !s.Caps().ReadOnly || !g.Status().LVs["s"].ReadOnly {
		t.Error("a read-only snapshot does not say so")
	}
	if _, err := s.WriteAt([]byte{1}, 0); !errs.Is(err, errs.Conflict) {
		t.Errorf("write to a read-only snapshot: %v", err)
	}
	base := opened(t, g, "base")
	must(t)(g.SetReadOnly(ctx, "base", true))
	for name, err := range map[string]error{
		"write": second(base.WriteAt([]byte{1}, 0)), "zero": base.WriteZeroes(0, 1), "discard": base.Discard(0, 512),
	} {
		wantKind(t, name+" after lvchange -pr", err, errs.Conflict)
	}
	must(t)(g.SetReadOnly(ctx, "base", false))
	write(t, base, 0, 3, 10)
	ro, err := g.Open(ctx, "base", true)
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	if _, err := ro.WriteAt([]byte{1}, 0); !errs.Is(err, errs.Conflict) || !ro.Caps().ReadOnly {
		t.Errorf("write through a device that was opened for reading: %v", err)
	}
	expect(t, "base", ro, 0, 3, 10)
	g.Close()
	g = mustOpen(t, devs)
	if d := opened(t, g, "s"); !d.Caps().ReadOnly {
		t.Error("the permission was lost")
	}
}

// mkfs begins with a discard of everything, where it is offered one.
func TestNoDiscardUnderSnapshots(t *testing.T) {
	g, _ := fresh(t, 1)
	must(t)(g.CreateLV(ctx, lv("base", 2, "")))
	base := opened(t, g, "base")
	if c := base.Caps(); !c.Discard || !c.Zeroes {
		t.Errorf("a plain volume offers %+v", c)
	}
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("base", "s", 2, "")}))
	for _, name := range []string{"base", "s"} {
		if c := opened(t, g, name).Caps(); c.Discard || c.Zeroes {
			t.Errorf("%s offers %+v", name, c)
		}
	}
	if !base.Caps().Discard {
		t.Error("the abilities of an open device have changed")
	}
}

func second(_ int, err error) error { return err }

func TestExtendWhileOpen(t *testing.T) {
	g, devs := fresh(t, 1)
	must(t)(g.CreateLV(ctx, lv("base", 2, "")))
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("base", "s", 1, "")}))
	base, s := opened(t, g, "base"), opened(t, g, "s")
	write(t, base, 0, 1, extent/2)
	must(t)(g.ExtendLV(ctx, volume.ExtendSpec{Name: "s", Size: volume.Size{Extents: 3}}))
	if c := g.Status().LVs["s"].Cow; c.Total != 3*extent/512 {
		t.Errorf("the store has %d sectors", c.Total)
	}
	write(t, base, 0, 2, 2*extent) // would have overflowed the store as it was
	expect(t, "snapshot", s, 0, 0, 4096)
	must(t)(g.ExtendLV(ctx, volume.ExtendSpec{Name: "base", Size: volume.Size{Extents: 3}, Relative: true}))
	if base.Size() != 5*extent || s.Size() != 2*extent {
		t.Errorf("sizes %d and %d", base.Size(), s.Size())
	}
	write(t, base, 4*extent, 4, extent)
	g.Close()
	g = mustOpen(t, devs)
	expect(t, "new part", opened(t, g, "base"), 4*extent, 4, extent)
	expect(t, "snapshot after reopening", opened(t, g, "s"), 0, 0, 4096)
}

func TestMissingPVKeepsOthersUsable(t *testing.T) {
	devs := memory(2, 4*mib)
	found(t, devs)
	g := mustOpen(t, devs)
	must(t)(g.CreateLV(ctx, lv("here", 2, "pv0")))
	must(t)(g.CreateLV(ctx, lv("gone", 2, "pv1")))
	g.Close()
	g = mustOpen(t, devs[:1])
	res, err := g.Activate(ctx)
	wantKind(t, "activate", err, errs.NotFound)
	if !slices.Equal(res.Names, []string{"here"}) || !strings.Contains(err.Error(), "vg/gone") {
		t.Errorf("activated %q, error %v", res.Names, err)
	}
	opened(t, g, "here")
	_, err = g.Open(ctx, "gone", false)
	wantKind(t, "open", err, errs.NotFound)
}

// An origin that was written without one of its stores would leave a snapshot
// that looks whole and is not.
func TestDamagedStoreKeepsItsFamilyInactive(t *testing.T) {
	g, devs := fresh(t, 2)
	must(t)(g.CreateLV(ctx, lv("base", 2, "pv0")))
	must(t)(g.CreateLV(ctx, lv("other", 2, "pv0")))
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("base", "s", 2, "pv1")}))
	g.Close()
	devs[1].WriteAt([]byte("something else"), mib) // where pv1's extents begin
	g = mustOpen(t, devs)
	res, err := g.Activate(ctx)
	wantKind(t, "activate", err, errs.Corrupt)
	if !slices.Equal(res.Names, []string{"other"}) || errs.HintOf(err) == "" {
		t.Errorf("activated %q, hint %q", res.Names, errs.HintOf(err))
	}
	must(t)(g.RemoveLVs(ctx, []string{"s"})) // as the hint says
	must(t)(g.Activate(ctx))
	wantActive(t, g, "base", "other")
}

func TestUnsupportedTypesAreNamed(t *testing.T) {
	devs := memory(1, 4*mib)
	found(t, devs)
	g := mustOpen(t, devs)
	must(t)(g.CreateLV(ctx, lv("plain", 2, "")))
	must(t)(g.CreateLV(ctx, lv("strange", 2, "")))
	changed := g.Model().Clone()
	changed.LV("strange").Segments[0].Type = "raid9"
	g.mu.Lock()
	g.model = changed
	g.mu.Unlock()
	res, err := g.Activate(ctx)
	wantKind(t, "activate", err, errs.Unsupported)
	if !strings.Contains(err.Error(), "raid9") || !slices.Equal(res.Names, []string{"plain"}) {
		t.Errorf("activated %q, error %v", res.Names, err)
	}
}

func TestStripes(t *testing.T) {
	devs := memory(2, 4*mib)
	found(t, devs)
	g := mustOpen(t, devs)
	must(t)(g.CreateLV(ctx, lv("base", 2, "pv0")))
	striped := g.Model().Clone()
	seg := &striped.LV("base").Segments[0]
	seg.StripeSize, seg.Stripes = 8, []volume.Area{{PV: "pv0", Start: 0}, {PV: "pv1", Start: 3}}
	g.mu.Lock()
	g.model = striped
	g.mu.Unlock()
	d := opened(t, g, "base")
	write(t, d, 4096, 5, 4096) // the second chunk: the first of pv1
	got := make([]byte, 1)
	devs[1].ReadAt(got, mib+3*extent)
	if got[0] != 5 {
		t.Errorf("pv1 holds %#x", got[0])
	}
	var _ block.Device = d
}

func TestClosedGroup(t *testing.T) {
	g, _ := fresh(t, 1)
	must(t)(g.CreateLV(ctx, lv("base", 2, "")))
	d := opened(t, g, "base")
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	_, err := g.CreateLV(ctx, lv("x", 1, ""))
	wantKind(t, "create", err, errs.Conflict)
	_, err = g.Open(ctx, "base", false)
	wantKind(t, "open", err, errs.Conflict)
	wantKind(t, "flush", d.Flush(), errs.Conflict)
	if err := d.Close(); err != nil {
		t.Errorf("close of a device of a closed group: %v", err)
	}
}

func TestRemoveGroup(t *testing.T) {
	g, devs := fresh(t, 2)
	must(t)(g.CreateLV(ctx, lv("base", 2, "")))
	must(t)(g.RemoveGroup(ctx))
	if _, err := assemble(devs); !errs.Is(err, errs.NotFound) {
		t.Errorf("the group is still there: %v", err)
	}
	_, err := g.Activate(ctx)
	wantKind(t, "activate", err, errs.Conflict)
}
