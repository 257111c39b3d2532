package metastore

import (
	"strings"
	"testing"

	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/format/mda"
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

// A group must have its metadata somewhere.
func TestGroupWithoutAreas(t *testing.T) {
	g := newIDs()
	devs := mems(2)
	bare := create(t, g, PVOptions{MetadataCopies: ptr(0)}, devs[0])[0]
	s, err := New([]*PV{bare}, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Precommit(newGroup(t, g, "vg", bare)); !errs.Is(err, errs.Conflict) {
		t.Errorf("a new group on a PV without areas: %v, want a conflict", err)
	}
	full := create(t, g, PVOptions{}, devs[1])[0]
	s = founded(t, g, "vg", bare, full)
	c, err := s.Group().RemovePV("pv1")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Precommit(c.Group); !errs.Is(err, errs.Conflict) {
		t.Errorf("vgreduce of the only areas: %v, want a conflict", err)
	}
	mustChange(t, s, s.Group()) // and it goes on
}

// An area that is ignored gets no commits, and stays ignored when its PV leaves
// the group.
func TestIgnoredArea(t *testing.T) {
	g := newIDs()
	devs := mems(2)
	s := founded(t, g, "vg", create(t, g, PVOptions{}, devs...)...)
	m := readAll(t, devs...)[1].MDAs[0]
	if err := m.writeSlots(m.header.Slots[mda.Committed].WithIgnored(true), mda.Locn{}); err != nil {
		t.Fatal(err)
	}
	s = reopened(t, devs...)
	mustChange(t, s, withLV(t, g, s.Group(), "a"))
	m = readAll(t, devs...)[1].MDAs[0]
	if !m.Ignored || strings.Contains(string(m.Text), "a {") {
		t.Fatalf("ignored %v, text\n%s", m.Ignored, m.Text)
	}
	if f := assembled(t, devs...); len(f.Problems) > 0 {
		t.Errorf("problems: %q", f.Problems)
	}
	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
	if m = readAll(t, devs...)[1].MDAs[0]; !m.Ignored || m.Text != nil {
		t.Errorf("after vgremove: ignored %v, text\n%s", m.Ignored, m.Text)
	}
}

// What a caller may get wrong is refused, and changes nothing.
func TestMisuse(t *testing.T) {
	g := newIDs()
	devs := mems(3)
	pvs := create(t, g, PVOptions{}, devs...)
	empty, err := New(pvs[:1], testOptions())
	if err != nil {
		t.Fatal(err)
	}
	s := founded(t, g, "vg", pvs[1])
	for _, c := range []struct {
		name string
		call func() error
		kind errs.Kind
	}{
		{"Commit of nothing", s.Commit, errs.Conflict},
		{"Remove of no group", empty.Remove, errs.Conflict},
		{"New on a PV of a group", func() error { _, err := New(readAll(t, devs[1]), testOptions()); return err }, errs.Conflict},
		{"Attach of a second device with the same PV", func() error {
			return empty.Attach(readAll(t, devs[0].Clone())[0])
		}, errs.Exists},
		{"Precommit twice", func() error {
			if err := s.Precommit(s.Group()); err != nil {
				t.Fatal(err)
			}
			return s.Precommit(s.Group())
		}, errs.Conflict},
		{"Remove while a change is staged", s.Remove, errs.Conflict},
	} {
		if err := c.call(); !errs.Is(err, c.kind) {
			t.Errorf("%s: %v, want an error of kind %v", c.name, err, c.kind)
		}
	}
	if err := s.Commit(); err != nil {
		t.Error(err)
	}
	if err := s.Revert(); err != nil {
		t.Errorf("Revert of nothing: %v", err)
	}
	if empty.Group() != nil || empty.PVs() != nil {
		t.Error("a store without a group has one")
	}
	// A PV that was attached and taken back is not touched by later changes.
	if err := s.Attach(pvs[2]); err != nil {
		t.Fatal(err)
	}
	mustChange(t, s, s.Group())
	s.Detach(pvs[2].ID())
	mustChange(t, s, s.Group())
	if pv := readAll(t, devs[2])[0]; pv.InUse() || pv.MDAs[0].Text != nil {
		t.Error("a PV that was only attached became the group's")
	}
}
