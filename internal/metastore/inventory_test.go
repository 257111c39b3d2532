package metastore

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/volume"
)

// mems returns n memory devices of 16 MiB.
func mems(n int) []*mem.Device {
	var devs []*mem.Device
	for range n {
		devs = append(devs, mem.New(16*mib))
	}
	return devs
}

func TestReadPVWithoutALabel(t *testing.T) {
	labelled := mem.New(16 * mib)
	create(t, newIDs(), PVOptions{}, labelled)
	for _, c := range []struct {
		name string
		dev  *mem.Device
		harm func(t *testing.T, d *mem.Device)
		kind errs.Kind
	}{
		{"nothing on it", mem.New(16 * mib), nil, errs.NotFound},
		{"too small for a sector", mem.New(100), nil, errs.NotFound},
		{"empty", mem.New(0), nil, errs.NotFound},
		{"a flipped bit", labelled.Clone(), func(t *testing.T, d *mem.Device) { flip(t, d, 512+40) }, errs.Corrupt},
		{"a label that moved", labelled.Clone(), func(t *testing.T, d *mem.Device) { move(t, d, 512, 1024) }, errs.Corrupt},
	} {
		if c.harm != nil {
			c.harm(t, c.dev)
		}
		if _, err := ReadPV(Source{Path: "dev", Dev: c.dev}); !errs.Is(err, c.kind) {
			t.Errorf("%s: %v, want an error of kind %v", c.name, err, c.kind)
		}
	}
}

func flip(t *testing.T, d block.Device, off int64) {
	t.Helper()
	b := make([]byte, 1)
	if _, err := d.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := d.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// move takes a sector elsewhere and leaves zeroes.
func move(t *testing.T, d block.Device, from, to int64) {
	t.Helper()
	b := make([]byte, 512)
	_, err1 := d.ReadAt(b, from)
	_, err2 := d.WriteAt(b, to)
	if err := errors.Join(err1, err2, d.WriteZeroes(from, 512)); err != nil {
		t.Fatal(err)
	}
}

// A PV that was away during changes comes back: the newest metadata counts,
// and the PV catches up with the next change.
func TestStalePV(t *testing.T) {
	g := newIDs()
	devs := mems(3)
	s := founded(t, g, "vg", create(t, g, PVOptions{}, devs...)...)
	away := devs[1].Clone()
	mustChange(t, s, withLV(t, g, s.Group(), "a"))
	devs[1] = away

	f := assembled(t, devs...)
	if got := textOf(f.Group); got != textOf(s.Group()) {
		t.Fatalf("the group is\n%s", got)
	}
	if len(f.Problems) != 1 || !strings.Contains(f.Problems[0], "ignoring metadata seqno 1 on /dev/test1 for seqno 2") {
		t.Fatalf("problems: %q", f.Problems)
	}
	s = reopened(t, devs...)
	mustChange(t, s, s.Group())
	if f := assembled(t, devs...); len(f.Problems) > 0 {
		t.Fatalf("problems: %q", f.Problems)
	}
}

// A device that is found under another path is written down there.
func TestPathsFollowTheDevices(t *testing.T) {
	g := newIDs()
	dev := mem.New(16 * mib)
	founded(t, g, "vg", create(t, g, PVOptions{}, dev)...)
	pv, err := ReadPV(Source{Path: "/images/moved.img", Dev: dev})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(Assemble([]*PV{pv}).Groups[0], testOptions())
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Group().PVs[0].Device; got != "/dev/test0" {
		t.Fatalf("before the change the device is %s", got)
	}
	mustChange(t, s, s.Group())
	if got := assembled(t, dev).Group.PVs[0].Device; got != "/images/moved.img" {
		t.Errorf("after the change the device is %s", got)
	}
}

// With PVs missing a group can be seen but not changed, unless they are marked.
func TestMissingPV(t *testing.T) {
	g := newIDs()
	devs := mems(3)
	s := founded(t, g, "vg", create(t, g, PVOptions{}, devs...)...)
	gone := devs[2]
	devs = devs[:2]
	f := assembled(t, devs...)
	if m := f.Missing(); len(m) != 1 || m[0].Key != "pv2" || f.PVs[2] != nil || f.Unusable != nil {
		t.Fatalf("missing: %v, unusable: %v", m, f.Unusable)
	}
	if len(f.Problems) != 2 {
		t.Fatalf("problems: %q", f.Problems)
	}
	s = reopened(t, devs...)
	vg := withLV(t, g, s.Group(), "a")
	err := s.Precommit(vg)
	if !errs.Is(err, errs.Conflict) || errs.HintOf(err) == "" {
		t.Fatalf("a change with a PV missing: %v, want a conflict with a hint", err)
	}

	// As vgreduce --removemissing does it.
	c, err := vg.RemovePV("pv2")
	if err != nil {
		t.Fatal(err)
	}
	mustChange(t, s, c.Group)
	f = assembled(t, append(devs, gone)...)
	if len(f.Outdated) != 1 || f.Outdated[0].ID() != idOf(t, gone) || len(f.PVs) != 2 {
		t.Fatalf("outdated: %v, %d PVs", f.Outdated, len(f.PVs))
	}
	if len(f.Problems) != 1 || !strings.Contains(f.Problems[0], "outdated PV") {
		t.Fatalf("problems: %q", f.Problems)
	}
	// It is not to be taken in again with its old metadata.
	if err := reopened(t, devs...).Attach(f.Outdated[0]); !errs.Is(err, errs.Conflict) {
		t.Fatalf("Attach of an outdated PV: %v, want a conflict", err)
	}

	// Marked as missing, the PV may stay in the group.
	s = reopened(t, append(slices.Clone(devs), gone)[:2]...)
	vg = s.Group()
	vg.PVs[1].Status = append(vg.PVs[1].Status, volume.StatusMissing)
	one := reopened(t, devs[:1]...)
	mustChange(t, one, vg)
}

func idOf(t *testing.T, d *mem.Device) volume.UUID {
	t.Helper()
	return readAll(t, d)[0].ID()
}

// The same PV twice (a copied image, two paths to a disk): no guess is made as
// to which one to write to.
func TestDuplicatePV(t *testing.T) {
	g := newIDs()
	devs := mems(2)
	s := founded(t, g, "vg", create(t, g, PVOptions{}, devs...)...)
	inv := Assemble(readAll(t, devs[0], devs[1], devs[1].Clone()))
	if len(inv.Groups) != 1 || textOf(inv.Groups[0].Group) != textOf(s.Group()) {
		t.Fatalf("%d groups", len(inv.Groups))
	}
	if len(inv.Problems) != 1 || !strings.Contains(inv.Problems[0], "/dev/test2") {
		t.Errorf("problems: %q", inv.Problems)
	}
	if _, err := Open(inv.Groups[0], testOptions()); !errs.Is(err, errs.Conflict) {
		t.Errorf("Open: %v, want a conflict", err)
	}
	if len(inv.Orphans) != 0 {
		t.Errorf("orphans: %v", inv.Orphans)
	}
}

// Two groups of one name: both are there, and the name alone names neither.
func TestTwoGroupsOfOneName(t *testing.T) {
	g := newIDs()
	devs := mems(3)
	pvs := create(t, g, PVOptions{}, devs...)
	founded(t, g, "vg", pvs[0])
	founded(t, g, "vg", pvs[1])
	inv := Assemble(readAll(t, devs...))
	if len(inv.Groups) != 2 || len(inv.Orphans) != 1 {
		t.Fatalf("%d groups, %d orphans", len(inv.Groups), len(inv.Orphans))
	}
	if len(inv.Problems) != 1 || !strings.Contains(inv.Problems[0], "VG name vg is used by VGs") {
		t.Errorf("problems: %q", inv.Problems)
	}
	if _, err := inv.Find("vg"); !errs.Is(err, errs.Conflict) {
		t.Errorf("Find: %v, want a conflict", err)
	}
	if _, err := inv.Find("other"); !errs.Is(err, errs.NotFound) {
		t.Errorf("Find: %v, want not found", err)
	}
}

// A PV without metadata areas of its own, and one that another group took
// while the first did not see it.
func TestWhoOwnsAPV(t *testing.T) {
	g := newIDs()
	devs := mems(3)
	a := create(t, g, PVOptions{}, devs[:2]...)
	bare := create(t, g, PVOptions{MetadataCopies: ptr(0)}, devs[2])
	s := founded(t, g, "a", a[0], a[1], bare[0])
	f := assembled(t, devs...)
	if len(f.Missing()) > 0 || len(f.Problems) > 0 {
		t.Fatalf("missing %v, problems %q", f.Missing(), f.Problems)
	}
	if inv := Assemble(readAll(t, devs[2])); len(inv.Groups) != 0 || len(inv.Orphans) != 1 ||
		len(inv.Problems) != 1 || !strings.Contains(inv.Problems[0], "marked in use") {
		t.Fatalf("alone, the PV without areas: %+v", inv)
	}

	// pv1 goes to another group behind a's back.
	o := PVOptions{ID: a[1].ID()}
	again, err := CreatePV(Source{Path: "/dev/test1", Dev: devs[1]}, o)
	if err != nil {
		t.Fatal(err)
	}
	founded(t, g, "b", again)
	inv := Assemble(readAll(t, devs...))
	if len(inv.Groups) != 2 || len(inv.Groups[0].Missing()) != 1 || len(inv.Groups[1].Missing()) != 0 {
		t.Fatalf("groups: %+v", inv.Groups)
	}
	// The store that is still open on a must not take it back.
	if err := s.Precommit(s.Group()); !errs.Is(err, errs.Conflict) {
		t.Fatalf("a change of a: %v, want a conflict", err)
	}
}

// Metadata that makes no sense is shown and not acted upon.
func TestInvalidGroup(t *testing.T) {
	g := newIDs()
	dev := mem.New(64 * mib)
	s := founded(t, g, "vg", create(t, g, PVOptions{}, dev)...)
	mustChange(t, s, withLV(t, g, withLV(t, g, s.Group(), "a"), "b"))
	text := bytes.Replace(s.text, []byte("\"pv0\", 1"), []byte("\"pv0\", 0"), 1)
	if bytes.Equal(text, s.text) {
		t.Fatal("b is elsewhere; the test tests nothing")
	}
	rewrite(t, dev, readAll(t, dev)[0].MDAs[0], text)
	f := assembled(t, dev)
	if !errs.Is(f.Unusable, errs.Corrupt) || len(f.Problems) != 1 {
		t.Fatalf("unusable: %v, problems: %q", f.Unusable, f.Problems)
	}
	if _, err := Open(f, testOptions()); !errs.Is(err, errs.Corrupt) {
		t.Fatalf("Open: %v", err)
	}
	// And it is not written in the first place.
	vg := s.Group()
	vg.LVs[1].Segments[0].Stripes[0].Start = 0
	if err := s.Precommit(vg); !errs.Is(err, errs.Corrupt) {
		t.Fatalf("Precommit: %v, want corrupt", err)
	}
}

// Two texts under one sequence number, after a split: nobody can say which.
func TestSplitBrain(t *testing.T) {
	g := newIDs()
	devs := mems(2)
	founded(t, g, "vg", create(t, g, PVOptions{}, devs...)...)
	left, right := []*mem.Device{devs[0].Clone(), devs[1].Clone()}, []*mem.Device{devs[0].Clone(), devs[1].Clone()}
	l, r := reopened(t, left...), reopened(t, right...)
	mustChange(t, l, withLV(t, g, l.Group(), "l"))
	mustChange(t, r, withLV(t, g, r.Group(), "r"))
	f := assembled(t, left[0], right[1])
	if !errs.Is(f.Unusable, errs.Conflict) || len(f.Problems) != 1 {
		t.Fatalf("unusable: %v, problems: %q", f.Unusable, f.Problems)
	}
}
