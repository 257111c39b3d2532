package metastore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"cowl/internal/block/blocktest"
	"cowl/internal/block/crash"
)

// scenario is a change of one group that is cut short everywhere.
type scenario struct {
	name  string
	areas int // metadata areas of each PV
	disks int

	// setup makes what is there before, change does what is cut. Both must do
	// the same at each call. Either may leave no group behind.
	setup  func(t *testing.T, g *ids, disks []*crash.Disk)
	change func(t *testing.T, g *ids, disks []*crash.Disk) error
}

func (sc scenario) options() PVOptions { return PVOptions{MetadataCopies: ptr(sc.areas)} }

// group is a setup: PVs, all but the last spare of them in a group with a volume.
func group(areas, spare int) func(*testing.T, *ids, []*crash.Disk) {
	return func(t *testing.T, g *ids, disks []*crash.Disk) {
		pvs := create(t, g, PVOptions{MetadataCopies: ptr(areas)}, disks...)
		if len(pvs) > spare {
			s := founded(t, g, "vg", pvs[:len(pvs)-spare]...)
			mustChange(t, s, withLV(t, g, s.Group(), "old"))
		}
	}
}

func scenarios() []scenario {
	var list []scenario
	for _, areas := range []int{1, 2} {
		list = append(list,
			scenario{"vgcreate", areas, 3, group(areas, 3), func(t *testing.T, g *ids, disks []*crash.Disk) error {
				pvs := readAll(t, disks...)
				s, err := New(pvs, testOptions())
				if err != nil {
					return err
				}
				return change(s, newGroup(t, g, "vg", pvs...))
			}},
			scenario{"lvcreate", areas, 3, group(areas, 0), func(t *testing.T, g *ids, disks []*crash.Disk) error {
				s := reopened(t, disks...)
				return change(s, withLV(t, g, s.Group(), "new"))
			}},
			scenario{"revert", areas, 3, group(areas, 0), func(t *testing.T, g *ids, disks []*crash.Disk) error {
				s := reopened(t, disks...)
				if err := s.Precommit(withLV(t, g, s.Group(), "new")); err != nil {
					return err
				}
				return s.Revert()
			}},
			scenario{"vgextend", areas, 3, group(areas, 1), func(t *testing.T, g *ids, disks []*crash.Disk) error {
				s := reopened(t, disks...)
				pv := readAll(t, disks...)[2]
				if err := s.Attach(pv); err != nil {
					return err
				}
				c, err := s.Group().AddPV(pv.Spec())
				if err != nil {
					return err
				}
				return change(s, c.Group)
			}},
			scenario{"vgreduce", areas, 3, group(areas, 0), func(t *testing.T, g *ids, disks []*crash.Disk) error {
				s := reopened(t, disks...)
				c, err := s.Group().RemovePV("pv2")
				if err != nil {
					return err
				}
				return change(s, c.Group)
			}},
			scenario{"vgremove", areas, 3, group(areas, 0), func(t *testing.T, g *ids, disks []*crash.Disk) error {
				return reopened(t, disks...).Remove()
			}},
		)
	}
	return list
}

// After a power cut at every write and flush, with any of what was not flushed
// surviving, there is the old group or the new one, exactly, and it can be
// changed.
func TestPowerCuts(t *testing.T) {
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
	total := 0
	for _, sc := range scenarios() {
		t.Run(fmt.Sprintf("%s with %d areas a PV", sc.name, sc.areas), func(t *testing.T) {
			points := 0
			before, after := sc.outcomes(t)
			for n := int64(1); ; n++ {
				w, err := sc.run(t, n)
				if !w.Down() {
					if err != nil {
						t.Fatalf("without a power cut: %v", err)
					}
					break
				}
				for name, disks := range w.Reboots(rng, long(4)) {
					points++
					at := fmt.Sprintf("cut at %s, %s", w.Op(n), name)
					if rng.IntN(4) == 0 {
						points += recoverCut(t, rng, at, disks)
					}
					sc.check(t, at, disks, before, after, err == nil)
				}
			}
			t.Logf("%d states after a power cut", points)
			total += points
		})
	}
	t.Logf("%d states after a power cut in all", total)
}

// outcomes returns the groups before and after the change, as texts.
func (sc scenario) outcomes(t *testing.T) (before, after string) {
	t.Helper()
	disks, g := sc.prepared(t)
	before = onDisk(t, disks...)
	if err := sc.change(t, g, disks); err != nil {
		t.Fatal(err)
	}
	after = onDisk(t, disks...)
	if before == after && sc.name != "revert" {
		t.Fatal("the change changes nothing")
	}
	return before, after
}

// prepared returns disks of a new world with the setup on them.
func (sc scenario) prepared(t *testing.T) ([]*crash.Disk, *ids) {
	t.Helper()
	w := crash.NewWorld()
	for i := range sc.disks {
		w.NewDisk(fmt.Sprintf("pv%d", i), 16*mib)
	}
	g := newIDs()
	sc.setup(t, g, w.Disks())
	return w.Reboot(crash.All), g
}

// run does the change with a power cut at operation n, and returns the world.
func (sc scenario) run(t *testing.T, n int64) (*crash.World, error) {
	t.Helper()
	disks, g := sc.prepared(t)
	w := disks[0].World()
	w.CutAt(n)
	return w, sc.change(t, g, disks)
}

// onDisk returns the text of the group that is on the disks.
func onDisk(t *testing.T, disks ...*crash.Disk) string {
	t.Helper()
	inv := Assemble(readAll(t, disks...))
	switch len(inv.Groups) {
	case 0:
		return textOf(nil)
	case 1:
		return textOf(inv.Groups[0].Group)
	}
	t.Fatalf("%d groups; problems: %q", len(inv.Groups), inv.Problems)
	return ""
}

// check looks at the disks after a power cut: the old or the new group, the
// new one if the change had returned, and a following change works and leaves
// nothing wrong behind.
func (sc scenario) check(t *testing.T, at string, disks []*crash.Disk, before, after string, promised bool) {
	t.Helper()
	got := onDisk(t, disks...)
	if got != after && (promised || got != before) {
		t.Fatalf("%s: the group is\n%s\nwant\n%s\nor (%v)\n%s", at, got, after, !promised, before)
	}
	inv := Assemble(readAll(t, disks...))
	for _, pv := range inv.Orphans {
		if pv.InUse() {
			t.Fatalf("%s: PV %s is of no group and says it is in use", at, pv.Path)
		}
	}
	g := &ids{rand.New(rand.NewPCG(99, 99))}
	if got == textOf(nil) {
		founded(t, g, "next", inv.Orphans...)
	} else {
		s := reopened(t, disks...)
		mustChange(t, s, withLV(t, g, s.Group(), "next"))
		if onDisk(t, disks...) != textOf(s.Group()) {
			t.Fatalf("%s: the change after it is not on disk", at)
		}
	}
	f := assembled(t, disks...)
	if len(f.Problems) != len(f.Outdated) {
		t.Fatalf("%s: after the next change: %q", at, f.Problems)
	}
}

// recoverCut cuts the change that follows a power cut as well. It returns the
// number of states that were looked at.
func recoverCut(t *testing.T, rng *rand.Rand, at string, disks []*crash.Disk) int {
	t.Helper()
	disks = disks[0].World().Reboot(crash.All)
	before := onDisk(t, disks...)
	if before == textOf(nil) {
		return 0
	}
	s := reopened(t, disks...)
	next := withLV(t, newIDs(), s.Group(), "next")
	w := disks[0].World()
	w.CutAt(1 + rng.Int64N(24))
	err := change(s, next)
	points := 0
	for name, found := range w.Reboots(rng, 2) {
		points++
		f := assembled(t, found...)
		isNext := f.Group.LV("next") != nil
		if f.Unusable != nil || !isNext && (err == nil || textOf(f.Group) != before) {
			t.Fatalf("%s; then cut at %s, %s: %v, the group is\n%s", at, w.Op(w.Ops()), name, f.Unusable, textOf(f.Group))
		}
	}
	return points
}

// Every single write and flush fails once, without a power cut: the store
// says so or goes on with a warning, what is on disk is the old or the new
// group, and the same store can change it again.
func TestEveryOperationFails(t *testing.T) {
	broken := errors.New("injected")
	for _, sc := range scenarios() {
		t.Run(fmt.Sprintf("%s with %d areas a PV", sc.name, sc.areas), func(t *testing.T) {
			before, after := sc.outcomes(t)
			for n := int64(1); ; n++ {
				disks, g := sc.prepared(t)
				w := disks[0].World()
				w.FailAt(n, broken)
				err := sc.change(t, g, disks)
				if w.Fired() == 0 {
					t.Logf("%d operations failed one by one", n-1)
					break
				}
				sc.check(t, "failed "+w.Op(n), disks, before, after, err == nil)
			}
		})
	}
}

// The same with one store that lives on, as a daemon's does, and with faults
// that hit every device at once.
func TestStoreGoesOnAfterFailures(t *testing.T) {
	for first := int64(1); first < 24; first++ {
		for _, span := range []int64{1, 3, 6, 12} {
			w := crash.NewWorld()
			disks := []*crash.Disk{w.NewDisk("pv0", 16*mib), w.NewDisk("pv1", 16*mib), w.NewDisk("pv2", 16*mib)}
			g := newIDs()
			s := founded(t, g, "vg", create(t, g, PVOptions{}, disks...)...)
			start := w.Ops()
			for n := first; n < first+span; n++ {
				w.FailAt(start+n, errors.New("injected"))
			}
			before := textOf(s.Group())
			err := change(s, withLV(t, g, s.Group(), "a"))
			s.Warnings()
			got := onDisk(t, disks...)
			switch {
			case err == nil && got != textOf(s.Group()):
				t.Fatalf("operations %d+%d failed: Commit succeeded with\n%s\non disk is\n%s", first, span, textOf(s.Group()), got)
			case err != nil && textOf(s.Group()) != before:
				t.Fatalf("operations %d+%d failed: the change failed and yet shows", first, span)
			}
			for n := start; n < start+100; n++ {
				w.FailAt(n, nil)
			}
			mustChange(t, s, withLV(t, g, s.Group(), "b"))
			if got := onDisk(t, disks...); got != textOf(s.Group()) {
				t.Fatalf("operations %d+%d failed: later, in the store:\n%s\non disk:\n%s", first, span, textOf(s.Group()), got)
			}
			if f := assembled(t, disks...); len(f.Problems) > 0 {
				t.Fatalf("operations %d+%d failed: later: %q", first, span, f.Problems)
			}
		}
	}
}

// A commit fails because no flush works any more, and yet its headers are on
// the disks. The next change, wherever the power is cut in it, must not give
// its sequence number to another text.
func TestPowerCutsAfterACommitOfUnknownFate(t *testing.T) {
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
	points := 0
	for n := int64(1); ; n++ {
		w := crash.NewWorld()
		disks := []*crash.Disk{w.NewDisk("pv0", 16*mib), w.NewDisk("pv1", 16*mib), w.NewDisk("pv2", 16*mib)}
		g := newIDs()
		s := founded(t, g, "vg", create(t, g, PVOptions{}, disks...)...)
		possible := map[string]bool{textOf(s.Group()): true}

		if err := s.Precommit(withLV(t, g, s.Group(), "lost")); err != nil {
			t.Fatal(err)
		}
		for i := range int64(3) {
			w.FailAt(w.Ops()+3+i+1, errors.New("injected")) // three writes, and then the flushes
		}
		if err := s.Commit(); err == nil || w.Fired() != 3 {
			t.Fatalf("Commit: %v, %d faults fired", err, w.Fired())
		}
		possible[onDisk(t, disks...)] = true
		if len(possible) != 2 {
			t.Fatal("the lost commit is not on disk: the test tests nothing")
		}

		next := withLV(t, g, s.Group(), "next")
		w.CutAt(w.Ops() + n)
		err := change(s, next)
		if !w.Down() {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		for name, found := range w.Reboots(rng, long(4)) {
			points++
			f := assembled(t, found...)
			if f.Unusable != nil {
				t.Fatalf("cut at %s, %s: %v", w.Op(w.Ops()), name, f.Unusable)
			}
			if text := textOf(f.Group); !possible[text] && (f.Group.LV("next") == nil || f.Group.LV("lost") != nil) {
				t.Fatalf("cut at %s, %s: the group is\n%s", w.Op(w.Ops()), name, text)
			}
		}
	}
	t.Logf("%d states after a power cut", points)
}
