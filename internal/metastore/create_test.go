package metastore

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"cowl/internal/block/blocktest"
	"cowl/internal/block/crash"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
)

func TestPVOptionsRefused(t *testing.T) {
	id := newIDs().next()
	for _, c := range []struct {
		name string
		size int64
		o    PVOptions
		kind errs.Kind
	}{
		{"no identifier", 16 * mib, PVOptions{}, errs.Usage},
		{"three areas", 16 * mib, PVOptions{ID: id, MetadataCopies: ptr(3)}, errs.Usage},
		{"minus one area", 16 * mib, PVOptions{ID: id, MetadataCopies: ptr(-1)}, errs.Usage},
		{"an area too small", 16 * mib, PVOptions{ID: id, MetadataSize: 16 << 10}, errs.Usage},
		{"a size within a sector", 16 * mib, PVOptions{ID: id, MetadataSize: 100000}, errs.Usage},
		{"a negative alignment", 16 * mib, PVOptions{ID: id, DataAlignment: -512}, errs.Usage},
		{"a huge alignment", 16 * mib, PVOptions{ID: id, DataAlignment: 1 << 62}, errs.Usage},
		{"sector 4", 16 * mib, PVOptions{ID: id, LabelSector: ptr(4)}, errs.Usage},
		{"a device too small", mib, PVOptions{ID: id}, errs.NoSpace},
		{"larger than the device", 16 * mib, PVOptions{ID: id, Size: 17 * mib}, errs.NoSpace},
		{"no room for data", 16 * mib, PVOptions{ID: id, MetadataSize: 16 * mib}, errs.NoSpace},
		{"no room for data between two areas", 16 * mib, PVOptions{ID: id, MetadataSize: 8 * mib, MetadataCopies: ptr(2)}, errs.NoSpace},
	} {
		d := mem.New(c.size)
		if _, err := CreatePV(Source{Path: "dev", Dev: d}, c.o); !errs.Is(err, c.kind) {
			t.Errorf("%s: %v, want an error of kind %v", c.name, err, c.kind)
		}
		if _, err := ReadPV(Source{Path: "dev", Dev: d}); !errs.Is(err, errs.NotFound) {
			t.Errorf("%s: afterwards: %v", c.name, err)
		}
	}
}

// A power cut during pvcreate or pvremove leaves a PV, whole, or none.
func TestPowerCutsOfPVs(t *testing.T) {
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
	points := 0
	o := PVOptions{ID: newIDs().next(), MetadataCopies: ptr(2)}
	for _, remove := range []bool{false, true} {
		for n := int64(1); ; n++ {
			disk := crash.New(16 * mib)
			src := Source{Path: "dev", Dev: disk}
			if remove {
				if _, err := CreatePV(src, o); err != nil {
					t.Fatal(err)
				}
			}
			w := disk.World()
			w.CutAt(w.Ops() + n)
			var err error
			if remove {
				err = WipePV(src)
			} else {
				_, err = CreatePV(src, o)
			}
			if !w.Down() {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			for name, found := range w.Reboots(rng, long(8)) {
				points++
				pv, err := ReadPV(Source{Path: "dev", Dev: found[0]})
				if errs.Is(err, errs.NotFound) {
					continue
				}
				at := fmt.Sprintf("remove %v, cut at %s, %s", remove, w.Op(w.Ops()), name)
				if err != nil {
					t.Fatalf("%s: %v", at, err)
				}
				for _, m := range pv.MDAs {
					if m.Damaged != nil {
						t.Fatalf("%s: %v", at, m.Damaged)
					}
				}
			}
		}
	}
	t.Logf("%d states after a power cut", points)
}

// WipePV takes every label, also a second one in another sector, and nothing else.
func TestWipePV(t *testing.T) {
	g := newIDs()
	d := mem.New(16 * mib)
	create(t, g, PVOptions{LabelSector: ptr(3)}, d)
	first := create(t, g, PVOptions{}, d.Clone())[0]
	sector, err := first.Label.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt(sector, 512); err != nil {
		t.Fatal(err)
	}
	if pv, err := ReadPV(Source{Dev: d}); err != nil || pv.ID() != first.ID() {
		t.Fatalf("of two labels the first counts: %v %v", pv, err)
	}
	if err := WipePV(Source{Path: "dev", Dev: d}); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadPV(Source{Dev: d}); !errs.Is(err, errs.NotFound) {
		t.Fatalf("after WipePV: %v", err)
	}
	if err := WipePV(Source{Path: "dev", Dev: d}); !errs.Is(err, errs.NotFound) {
		t.Fatalf("WipePV of what is no PV: %v", err)
	}
}
