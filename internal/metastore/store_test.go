package metastore

import (
	"strings"
	"testing"

	"cowl/internal/block/mem"
)

// The life of a group: made, changed, extended, reduced, removed, and read
// again after each step without a problem.
func TestLifeOfAGroup(t *testing.T) {
	g := newIDs()
	devs := []*mem.Device{mem.New(16 * mib), mem.New(16 * mib), mem.New(16 * mib)}
	pvs := create(t, g, PVOptions{}, devs...)
	s := founded(t, g, "vg", pvs[:2]...)

	clean := func(wantPVs int, wantOrphans int) {
		t.Helper()
		inv := Assemble(readAll(t, devs...))
		if len(inv.Groups) != 1 || len(inv.Problems)+len(inv.Groups[0].Problems) > 0 {
			t.Fatalf("%d groups, problems: %q", len(inv.Groups), inv.Problems)
		}
		f := inv.Groups[0]
		if len(f.Missing()) > 0 || len(f.PVs) != wantPVs || len(inv.Orphans) != wantOrphans {
			t.Fatalf("%d PVs, %d missing, %d orphans", len(f.PVs), len(f.Missing()), len(inv.Orphans))
		}
		if got, want := textOf(f.Group), textOf(s.Group()); got != want {
			t.Fatalf("on disk:\n%s\nin the store:\n%s", got, want)
		}
	}
	clean(2, 1)
	if got := s.Group().Seqno; got != 1 {
		t.Fatalf("seqno of a new group is %d", got)
	}

	mustChange(t, s, withLV(t, g, s.Group(), "a"))
	clean(2, 1)

	if err := s.Attach(pvs[2]); err != nil {
		t.Fatal(err)
	}
	c, err := s.Group().AddPV(pvs[2].Spec())
	if err != nil {
		t.Fatal(err)
	}
	mustChange(t, s, c.Group)
	clean(3, 0)

	if c, err = s.Group().RemovePV("pv1"); err != nil {
		t.Fatal(err)
	}
	mustChange(t, s, c.Group)
	clean(2, 1)

	if err := s.Precommit(withLV(t, g, s.Group(), "b")); err != nil {
		t.Fatal(err)
	}
	clean(2, 1)
	if err := s.Revert(); err != nil {
		t.Fatal(err)
	}
	clean(2, 1)
	if s.Group().Seqno != 4 || strings.Contains(textOf(s.Group()), "b {") {
		t.Fatalf("after Revert:\n%s", textOf(s.Group()))
	}

	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
	inv := Assemble(readAll(t, devs...))
	if len(inv.Groups) != 0 || len(inv.Orphans) != 3 || len(inv.Problems) > 0 {
		t.Fatalf("after Remove: %d groups, %d orphans, %q", len(inv.Groups), len(inv.Orphans), inv.Problems)
	}
	s = founded(t, g, "again", inv.Orphans...)
	clean(3, 0)
}
