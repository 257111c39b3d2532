package engine

import (
	"bytes"
	"context"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/filter/fault"
	"cowl/internal/errs"
	"cowl/internal/volume"
)

// gone waits until a merge has removed its snapshot.
func gone(t *testing.T, g *Group, name string) {
	t.Helper()
	until(t, name+" has been merged", func() bool { return g.Model().LV(name) == nil })
}

func notes(r *Result) string { return strings.Join(r.Notes, "\n") }

// mergeable returns an active group in which base holds 2 and its snapshot s
// 1; a second snapshot, later, holds 2.
func mergeable(t *testing.T) (*Group, []block.Device) {
	t.Helper()
	g, devs := fresh(t, 2)
	must(t)(g.CreateLV(ctx, lv("base", 4, "pv0")))
	base, err := g.Open(ctx, "base", false)
	if err != nil {
		t.Fatal(err)
	}
	write(t, base, 0, 1, 4*extent)
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("base", "s", 8, "pv1")}))
	write(t, base, 0, 2, 4*extent)
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("base", "later", 8, "pv1")}))
	closeDev(t, base)
	return g, devs
}

func TestMergeRollsBackAndLeavesSiblingsAlone(t *testing.T) {
	g, devs := mergeable(t)
	res := must(t)(g.Merge(ctx, volume.MergeSpec{Name: "s"}))
	if notes(res) != "Merging of volume vg/s started." {
		t.Errorf("notes %q", res.Notes)
	}
	base := opened(t, g, "base") // from the first moment on
	expect(t, "base while it is merged", base, 0, 1, 4*extent)
	gone(t, g, "s")
	expect(t, "base", base, 0, 1, 4*extent)
	expect(t, "later", opened(t, g, "later"), 0, 2, 4*extent)
	wantActive(t, g, "base", "later")
	write(t, base, 0, 3, 100)
	g.Close()
	g = mustOpen(t, devs)
	expect(t, "base after reopening", opened(t, g, "base"), 100, 1, 4*extent-100)
	expect(t, "later after reopening", opened(t, g, "later"), 0, 2, 4*extent)
	if free := g.Model().Free(); free != g.Model().Size()-4-volume.Extents(len(extentsOf(g, "later"))) {
		t.Errorf("%d extents are free", free)
	}
}

func extentsOf(g *Group, name string) []struct{} {
	return make([]struct{}, g.Model().LV(name).Extents())
}

// A merge leaves alone what an origin got by growing, also where a chunk of
// the snapshot is larger than an extent and reaches into it.
func TestMergeIntoAnOriginThatHasGrown(t *testing.T) {
	g, devs := fresh(t, 1)
	must(t)(g.CreateLV(ctx, lv("base", 3, "")))
	base := opened(t, g, "base")
	write(t, base, 0, 1, 3*extent)
	spec := snapOf("base", "s", 24, "")
	spec.ChunkSize = volume.Sectors(2 * extent / 512)
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{spec}))
	write(t, base, 0, 2, 3*extent)
	g.Status() // it is copied before the origin grows
	must(t)(g.ExtendLV(ctx, volume.ExtendSpec{Name: "base", Size: volume.Size{Extents: 5}}))
	write(t, base, 3*extent, 3, 2*extent)
	closeDev(t, base)
	must(t)(g.Merge(ctx, volume.MergeSpec{Name: "s"}))
	gone(t, g, "s")
	g.Close()
	base = opened(t, mustOpen(t, devs), "base")
	expect(t, "what the snapshot held", base, 0, 1, 3*extent)
	expect(t, "what was written behind it", base, 3*extent, 3, 2*extent)
}

// A merge at a rate takes its time, in small steps, stops where it is told to,
// and keeps to the rate when it goes on, until it is given another.
func TestMergeAtARate(t *testing.T) {
	g, devs := mergeable(t)
	must(t)(g.Deactivate(ctx))
	must(t)(g.Merge(ctx, volume.MergeSpec{Name: "s", Rate: new(int64(1))})) // more than an hour for a chunk
	if lv := g.Model().LV("s"); lv.MergeRate() != 1 {
		t.Errorf("tags %q", lv.Tags)
	}
	g.Close()

	g = mustOpen(t, devs)
	must(t)(g.Activate(ctx))
	base := opened(t, g, "base")
	expect(t, "base", base, 0, 1, 4*extent)
	const chunk = 4096 / 512
	left := func() volume.Sectors { return g.Status().LVs["s"].Cow.Allocated/chunk - 2 }
	until(t, "the first of 64 chunks has been merged", func() bool { return left() == 63 })
	for range 1000 {
		runtime.Gosched()
	}
	if left() != 63 {
		t.Errorf("%d chunks are left after the first step", left())
	}
	closeDev(t, base)
	must(t)(g.Deactivate(ctx)) // does not wait for the rate
	must(t)(g.Activate(ctx))
	_, err := g.Merge(ctx, volume.MergeSpec{Name: "s"})
	wantKind(t, "merge what is merging", err, errs.Conflict)
	_, err = g.Merge(ctx, volume.MergeSpec{Name: "s", Rate: new(int64(-1))})
	wantKind(t, "a negative rate", err, errs.Usage)
	must(t)(g.ChangeTags(ctx, "s", []string{"cowl.merge_rate=2"}, nil))
	if lv := g.Model().LV("s"); lv.MergeRate() != 2 {
		t.Errorf("tags %q", lv.Tags)
	}
	must(t)(g.Merge(ctx, volume.MergeSpec{Name: "s", Rate: new(int64(0))}))
	gone(t, g, "s")
	expect(t, "base", opened(t, g, "base"), 0, 1, 4*extent)
}

// While a merge goes on nothing is copied for its snapshot, so that a discard
// frees what it names: the origin's device offers it to who opens it. A sibling
// takes that away, and so does a merge that only waits to begin.
func TestDiscardWhileAMergeGoesOn(t *testing.T) {
	g, _ := mergeable(t)
	must(t)(g.RemoveLVs(ctx, []string{"later"}))
	plain := opened(t, g, "s")
	if plain.Caps().Discard {
		t.Error("a snapshot offers discards")
	}
	closeDev(t, plain)
	user := opened(t, g, "base")
	must(t)(g.Merge(ctx, volume.MergeSpec{Name: "s", Rate: new(int64(1))}))
	waiting := opened(t, g, "base")
	if c := waiting.Caps(); c.Discard || c.Zeroes {
		t.Errorf("%+v while the merge waits", c)
	}
	closeDev(t, waiting)
	closeDev(t, user)
	base := opened(t, g, "base")
	if c := base.Caps(); !c.Discard || !c.Zeroes {
		t.Errorf("%+v while the merge goes on", c)
	}
	if err := base.Discard(0, 2*extent); err != nil {
		t.Fatal(err)
	}
	expect(t, "base behind it", base, 2*extent, 1, 2*extent)
	must(t)(g.Merge(ctx, volume.MergeSpec{Name: "s", Rate: new(int64(0))}))
	gone(t, g, "s")
	expect(t, "base behind it", base, 2*extent, 1, 2*extent)
	expect(t, "what was discarded", base, 0, 0, 2*extent)
}

// Whoever has the origin open must not see its content change.
func TestMergeWaitsForTheLastUser(t *testing.T) {
	for _, open := range []string{"base", "s"} {
		t.Run(open, func(t *testing.T) {
			g, _ := mergeable(t)
			user, err := g.Open(ctx, open, false)
			if err != nil {
				t.Fatal(err)
			}
			res := must(t)(g.Merge(ctx, volume.MergeSpec{Name: "s"}))
			who := map[string]string{"base": "origin", "s": "snapshot"}[open]
			if !strings.HasPrefix(notes(res), "Delaying merge since "+who+" is open.") {
				t.Errorf("notes %q", res.Notes)
			}
			if st := g.Status().LVs; !st["s"].Cow.Delayed || st["base"].Merging != "s" {
				t.Errorf("status of s %+v, of base %+v", st["s"].Cow, st["base"])
			}
			_, err = g.Open(ctx, "s", false)
			wantKind(t, "open a merging snapshot", err, errs.Conflict)
			_, err = g.Merge(ctx, volume.MergeSpec{Name: "later"})
			wantKind(t, "second merge", err, errs.Conflict)
			other, err := g.Open(ctx, "base", false)
			if err != nil {
				t.Fatal(err)
			}
			expect(t, "base before the merge", other, 0, 2, 4*extent)
			closeDev(t, other)
			if g.Model().LV("s") == nil {
				t.Fatal("merged under its user")
			}
			closeDev(t, user)
			gone(t, g, "s")
			expect(t, "base", opened(t, g, "base"), 0, 1, 4*extent)
		})
	}
}

func TestMergeOfAnInactiveGroupHappensAtActivation(t *testing.T) {
	g, devs := mergeable(t)
	must(t)(g.Deactivate(ctx))
	res := must(t)(g.Merge(ctx, volume.MergeSpec{Name: "s"}))
	if want := "Merging of snapshot vg/s will occur on next activation of vg/base."; notes(res) != want {
		t.Errorf("notes %q, want %q", res.Notes, want)
	}
	g.Close()
	g = mustOpen(t, devs)
	if g.Model().LV("s") == nil {
		t.Fatal("merged without activation")
	}
	must(t)(g.Activate(ctx))
	gone(t, g, "s")
	expect(t, "base", opened(t, g, "base"), 0, 1, 4*extent)
}

// A merge that was cut short leaves an origin of two halves; whoever opens it
// must see the merged content at once, activated or not.
func TestInterruptedMergeGoesOn(t *testing.T) {
	g, devs := mergeable(t)
	must(t)(g.Deactivate(ctx))
	script := fault.New()
	var faulty []block.Device
	for _, d := range devs {
		faulty = append(faulty, script.Wrap("pv", d))
	}
	g.Close()
	g, err := open(faulty)
	if err != nil {
		t.Fatal(err)
	}
	must(t)(g.Activate(ctx))
	// The metadata is committed with a number of flushes that the merge's come
	// after, so the first failing flush is found by trying.
	script.Add(fault.Rule{Ops: fault.Flush, Nth: 12, Always: true})
	must(t)(g.Merge(ctx, volume.MergeSpec{Name: "s"}))
	until(t, "the merge has failed", func() bool {
		st, ok := g.Status().LVs["s"]
		return ok && st.Cow.MergeFailed
	})
	if st := g.Status().LVs["s"].Cow; st.Reason == "" {
		t.Errorf("no reason: %+v", st)
	}
	g.Close()
	if script.Fired() == 0 {
		t.Fatal("the fault did not fire")
	}

	g = mustOpen(t, devs)
	base, err := g.Open(ctx, "base", false)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "base of an interrupted merge", base, 0, 1, 4*extent)
	closeDev(t, base)
	must(t)(g.Activate(ctx))
	gone(t, g, "s")
	expect(t, "later", opened(t, g, "later"), 0, 2, 4*extent)
}

func TestDeactivationStopsAMergeBetweenSteps(t *testing.T) {
	g, _ := mergeable(t)
	must(t)(g.Merge(ctx, volume.MergeSpec{Name: "s"}))
	must(t)(g.Deactivate(ctx)) // at whatever point it is
	must(t)(g.Activate(ctx))
	gone(t, g, "s")
	expect(t, "base", opened(t, g, "base"), 0, 1, 4*extent)
}

func TestRemovingTheOriginOfAMerge(t *testing.T) {
	g, _ := mergeable(t)
	must(t)(g.Merge(ctx, volume.MergeSpec{Name: "s"}))
	_, err := g.RemoveLVs(ctx, []string{"s"})
	if err == nil && g.Model().LV("s") != nil {
		t.Error("removed a merging snapshot")
	}
	must(t)(g.RemoveLVs(ctx, []string{"base"}))
	if len(g.Model().LVs) != 0 {
		t.Errorf("%d volumes are left", len(g.Model().LVs))
	}
	must(t)(g.CreateLV(ctx, lv("base", 4, "")))
}

// A merge that waits can overflow meanwhile. Then it can never be, and the
// snapshot can go.
func TestDelayedMergeThatOverflows(t *testing.T) {
	g, devs := fresh(t, 1)
	must(t)(g.CreateLV(ctx, lv("base", 4, "")))
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("base", "s", 1, "")}))
	base, err := g.Open(ctx, "base", false)
	if err != nil {
		t.Fatal(err)
	}
	must(t)(g.Merge(ctx, volume.MergeSpec{Name: "s"}))
	write(t, base, 0, 1, 4*extent)
	if c := g.Status().LVs["s"].Cow; !c.Invalid || c.Delayed {
		t.Errorf("status %+v", c)
	}
	closeDev(t, base)
	expect(t, "base", opened(t, g, "base"), 0, 1, 4*extent)
	g.Close()
	g = mustOpen(t, devs)
	must(t)(g.Activate(ctx))
	if st := g.Status().LVs; !st["s"].Cow.Invalid || st["base"].Merging != "s" {
		t.Errorf("after reopening: %+v, %+v", st["s"].Cow, st["base"])
	}
	expect(t, "base after reopening", opened(t, g, "base"), 0, 1, 4*extent)
	res := must(t)(g.RemoveLVs(ctx, []string{"s"}))
	if !slices.Equal(res.Names, []string{"s"}) || g.Status().LVs["base"].Merging != "" {
		t.Errorf("removed %q", res.Names)
	}
}

// A write that was acknowledged and is not committed yet may be the one too
// many.
func TestNoMergeOfASnapshotAboutToOverflow(t *testing.T) {
	g, _ := fresh(t, 1)
	must(t)(g.CreateLV(ctx, lv("base", 4, "")))
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("base", "s", 1, "")}))
	base, err := g.Open(ctx, "base", false)
	if err != nil {
		t.Fatal(err)
	}
	write(t, base, 0, 1, 4*extent)
	closeDev(t, base)
	_, err = g.Merge(ctx, volume.MergeSpec{Name: "s"})
	wantKind(t, "merge", err, errs.Conflict)
	if _, merging := g.Model().MergingInto(g.Model().LV("base")); merging {
		t.Error("the metadata says that it is merging")
	}
}

// Writers, openers, snapshots, merges and status all at once: for the race
// detector, and for deadlocks.
func TestEverythingAtOnce(t *testing.T) {
	g, _ := fresh(t, 2)
	must(t)(g.CreateLV(ctx, lv("a", 4, "pv0")))
	must(t)(g.CreateLV(ctx, lv("b", 4, "pv0")))
	c, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	loop := func(f func(i int)) {
		wg.Go(func() {
			for i := 0; c.Err() == nil; i++ {
				f(i)
			}
		})
	}
	for _, name := range []string{"a", "b"} {
		d := opened(t, g, name)
		loop(func(i int) {
			off := int64(i*4096) % (4 * extent)
			if _, err := d.WriteAt(bytes.Repeat([]byte{byte(i)}, 4096), off); err != nil {
				t.Error(err)
			}
			if i%16 == 0 {
				d.Flush()
			}
		})
		loop(func(int) {
			if d, err := g.Open(ctx, name, true); err == nil {
				d.ReadAt(make([]byte, 4096), 0)
				d.Close()
			} else {
				t.Error(err)
			}
		})
	}
	loop(func(int) { g.Status() })
	for range 10 {
		must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("a", "sa", 6, "pv1"), snapOf("b", "sb", 6, "pv1")}))
		d, err := g.Open(ctx, "sa", false)
		if err != nil {
			t.Fatal(err)
		}
		one, two := make([]byte, 4*extent), make([]byte, 4*extent)
		d.ReadAt(one, 0)
		d.ReadAt(two, 0)
		if !bytes.Equal(one, two) {
			t.Error("a snapshot changes")
		}
		closeDev(t, d)
		must(t)(g.SetReadOnly(ctx, "sa", true))
		must(t)(g.RemoveLVs(ctx, []string{"sa", "sb"}))
	}
	stop()
	wg.Wait()
}
