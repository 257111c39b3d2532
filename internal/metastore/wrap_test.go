package metastore

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"cowl/internal/block/blocktest"
	"cowl/internal/block/crash"
	"cowl/internal/errs"
	"cowl/internal/volume"
)

// Many commits of a text that grows wrap around the buffer again and again;
// the power is cut in each of them.
func TestPowerCutsWhileWrapping(t *testing.T) {
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
	w := crash.NewWorld()
	disks := []*crash.Disk{w.NewDisk("pv0", 512*mib), w.NewDisk("pv1", 512*mib)}
	small := PVOptions{MetadataSize: minMDASize, DataAlignment: 4096}
	g := newIDs()
	founded(t, g, "vg", create(t, g, small, disks...)...)

	const commits = 48
	points, wraps := 0, 0
	for i := range commits {
		disks = disks[0].World().Reboot(crash.All) // an empty cache and a count of its own
		grow := func(disks []*crash.Disk) (*Store, error) {
			g := &ids{rand.New(rand.NewPCG(uint64(i), 0))}
			s := reopened(t, disks...)
			return s, change(s, resized(t, g, s.Group(), i))
		}
		before := onDisk(t, disks...)
		sure := disks[0].World().Reboot(crash.All)
		s, err := grow(sure)
		if err != nil {
			t.Fatalf("commit %d: %v", i, err)
		}
		after := textOf(s.Group())
		for _, m := range s.pvs[s.group.PVs[0].ID].MDAs {
			if l := m.header.Slots[0]; l.Offset+l.Length > m.header.Size {
				wraps++
			}
		}
		last := sure[0].World().Ops()
		for n := int64(1); n <= last; n++ {
			if long(1) == 1 && rng.IntN(3) > 0 {
				continue // one in three; all of them in the long version
			}
			cut := disks[0].World().Reboot(crash.All)
			cw := cut[0].World()
			cw.CutAt(n)
			grow(cut)
			for name, found := range cw.Reboots(rng, 1) {
				points++
				if got := onDisk(t, found...); got != before && got != after {
					t.Fatalf("commit %d, cut at %s, %s: the group is\n%s", i, cw.Op(n), name, got)
				}
			}
		}
		disks = sure
	}
	if wraps < 3 {
		t.Errorf("only %d texts wrapped around, the test is to see many", wraps)
	}
	t.Logf("%d states after a power cut in %d commits, %d of which wrapped", points, commits, wraps)
}

// resized returns a group whose text is larger or smaller than before, up to
// the largest that fits.
func resized(t *testing.T, g *ids, vg *volume.Group, i int) *volume.Group {
	t.Helper()
	if len(vg.LVs) > 40 {
		for _, lv := range vg.LVs[3:] {
			c, err := vg.RemoveLV(lv.Name)
			if err != nil {
				t.Fatal(err)
			}
			vg = c.Group
		}
		return vg
	}
	for j := range 3 {
		vg = withLV(t, g, vg, fmt.Sprintf("lv%d_%d", i, j))
	}
	return vg
}

// A text that has become too large is refused before anything is written.
func TestTooLargeChangesNothing(t *testing.T) {
	w := crash.NewWorld()
	disk := w.NewDisk("pv0", 1024*mib)
	g := newIDs()
	s := founded(t, g, "vg", create(t, g, PVOptions{MetadataSize: minMDASize, DataAlignment: 4096}, disk)...)
	for i := range 1000 {
		before, ops := textOf(s.Group()), w.Ops()
		var vg *volume.Group
		if c, err := s.Group().CreateLV(volume.LVSpec{Size: volume.Size{Extents: 1}}, g.stamp()); err == nil {
			vg = c.Group
		} else {
			t.Fatalf("volume %d: %v", i, err)
		}
		err := change(s, vg)
		if err == nil {
			continue
		}
		if !errs.Is(err, errs.NoSpace) {
			t.Fatalf("volume %d: %v, want an error of kind no-space", i, err)
		}
		if w.Ops() != ops || textOf(s.Group()) != before || onDisk(t, disk) != before {
			t.Fatalf("volume %d was refused, and something was written", i)
		}
		c, err := s.Group().RemoveLV("lvol0")
		if err != nil {
			t.Fatal(err)
		}
		mustChange(t, s, c.Group)
		return
	}
	t.Fatal("a text of 1000 volumes fits 32 KiB")
}
