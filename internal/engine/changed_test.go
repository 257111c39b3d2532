package engine

import (
	"context"
	"slices"
	"testing"

	"cowl/internal/errs"
	"cowl/internal/snap"
	"cowl/internal/volume"
)

// changes collects what has changed since a snapshot, neighbours joined.
func changes(g *Group, name string) (of *Changes, out []snap.Range, err error) {
	err = g.Changed(ctx, name, func(c *Changes) func(off, length int64) error {
		of = c
		return func(off, length int64) error {
			if n := len(out); n > 0 && out[n-1].Off+out[n-1].Len == off {
				out[n-1].Len += length
			} else {
				out = append(out, snap.Range{Off: off, Len: length})
			}
			return nil
		}
	})
	return of, out, err
}

func wantChanges(t *testing.T, what string, g *Group, name string, want ...snap.Range) {
	t.Helper()
	of, got, err := changes(g, name)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%s: changed %v, %v; want %v", what, got, err, want)
		return
	}
	if of.Group != g.Model() || of.Snap.Cow.Name != name || of.Snap.Origin.Name != "base" || of.Bytes != 4*extent || of.Chunk != 4*kib {
		t.Errorf("%s: of %+v", what, of)
	}
}

// The change list is what a backup goes by: it counts what was acknowledged,
// what was written before a restart, also by a restart of the whole group, and
// what a merge wrote.
func TestChangedSinceASnapshot(t *testing.T) {
	g, devs := fresh(t, 2)
	must(t)(g.CreateLV(ctx, lv("base", 4, "pv0")))
	base := opened(t, g, "base")
	write(t, base, 0, 1, 4*extent)
	must(t)(g.CreateSnapshots(ctx, specs(snapOf("base", "s", 8, "pv1"), snapOf("base", "m", 8, "pv1"))))
	wantChanges(t, "at once", g, "s")
	write(t, base, 5*kib, 2, 512)
	wantChanges(t, "staged", g, "s", snap.Range{Off: 4 * kib, Len: 4 * kib})
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}

	g = mustOpen(t, devs) // nothing is active now, nor afterwards
	wantChanges(t, "after a restart", g, "s", snap.Range{Off: 4 * kib, Len: 4 * kib})
	wantActive(t, g)

	must(t)(g.Activate(ctx))
	m := opened(t, g, "m")
	write(t, m, 100*kib, 3, 4*kib)
	wantChanges(t, "a sibling's own writes", g, "s", snap.Range{Off: 4 * kib, Len: 4 * kib})
	wantChanges(t, "own writes", g, "m", snap.Range{Off: 4 * kib, Len: 4 * kib}, snap.Range{Off: 100 * kib, Len: 4 * kib})
	closeDev(t, m)
	base = opened(t, g, "base")
	must(t)(g.Merge(ctx, volume.MergeSpec{Name: "m"})) // waits for base to be closed
	closeDev(t, base)
	until(t, "the merge is done", func() bool { return g.Model().LV("m") == nil })
	wantChanges(t, "after a merge", g, "s", snap.Range{Off: 4 * kib, Len: 4 * kib}, snap.Range{Off: 100 * kib, Len: 4 * kib})
}

// What cannot be known is an error, not a shorter list.
func TestChangedThatNobodyKnows(t *testing.T) {
	g, _ := fresh(t, 1)
	must(t)(g.CreateLV(ctx, lv("base", 4, "")))
	must(t)(g.CreateSnapshots(ctx, specs(snapOf("base", "s", 1, ""))))
	_, _, err := changes(g, "nosuch")
	wantKind(t, "no such volume", err, errs.NotFound)
	_, _, err = changes(g, "base")
	wantKind(t, "no snapshot", err, errs.Usage)
	write(t, opened(t, g, "base"), 0, 1, 4*extent) // overflows
	if _, got, err := changes(g, "s"); err == nil {
		t.Errorf("an overflowed snapshot knows that %v changed", got)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	must(t)(g.RemoveLVs(ctx, []string{"s"}))
	must(t)(g.CreateSnapshots(ctx, specs(snapOf("base", "s", 8, ""))))
	write(t, opened(t, g, "base"), 0, 2, 512)
	err = g.Changed(cancelled, "s", func(*Changes) func(off, length int64) error {
		return func(off, length int64) error { t.Error("a range, although it was cancelled"); return nil }
	})
	if err == nil {
		t.Error("cancelled, and no error")
	}
}

// While a snapshot is being merged, a sibling's store does not know all of
// what differs.
func TestChangedDuringAMerge(t *testing.T) {
	devs := memory(2, 4*mib)
	found(t, devs)
	g := mustOpenWith(t, devs, Options{Manual: true, stepped: true})
	must(t)(g.Activate(ctx))
	must(t)(g.CreateLV(ctx, lv("base", 4, "pv0")))
	must(t)(g.CreateSnapshots(ctx, specs(snapOf("base", "s", 8, "pv1"), snapOf("base", "m", 8, "pv1"))))
	m := opened(t, g, "m")
	write(t, m, 0, 1, 8*kib)
	closeDev(t, m)
	must(t)(g.Merge(ctx, volume.MergeSpec{Name: "m"}))
	_, _, err := changes(g, "s")
	wantKind(t, "a sibling of what is being merged", err, errs.Conflict)
	_, _, err = changes(g, "m")
	wantKind(t, "what is being merged", err, errs.Conflict)
}

func specs(list ...volume.SnapshotSpec) []volume.SnapshotSpec { return list }
