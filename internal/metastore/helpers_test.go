package metastore

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"cowl/internal/block"
	"cowl/internal/format/vgtext"
	"cowl/internal/volume"
)

const mib = 1 << 20

// ids makes identifiers that are different and the same in each run.
type ids struct{ rng *rand.Rand }

func newIDs() *ids { return &ids{rand.New(rand.NewPCG(1, 2))} }

func (g *ids) next() volume.UUID {
	var b [32]byte
	for i := range b {
		b[i] = byte(g.rng.Uint32())
	}
	return volume.UUIDFrom(b)
}

func (g *ids) stamp() volume.Stamp {
	return volume.Stamp{NewID: g.next, Time: 1700000000, Host: "host"}
}

// testWriter signs with a fixed time.
func testWriter() Writer {
	return Writer{Command: "test", Program: "cowl test", Host: "host", Kernel: "Linux host 6.1.0", Time: time.Unix(1700000000, 0).UTC()}
}

func testOptions() Options { return Options{Writer: testWriter} }

func ptr[T any](v T) *T { return &v }

// create makes PVs of the devices.
func create[D block.Device](t *testing.T, g *ids, o PVOptions, devs ...D) []*PV {
	t.Helper()
	var pvs []*PV
	for i, d := range devs {
		o.ID = g.next()
		pv, err := CreatePV(Source{Path: fmt.Sprintf("/dev/test%d", i), Dev: d}, o)
		if err != nil {
			t.Fatal(err)
		}
		pvs = append(pvs, pv)
	}
	return pvs
}

// readAll reads the PVs of the devices; those that are none are left out.
func readAll[D block.Device](t *testing.T, devs ...D) []*PV {
	t.Helper()
	var pvs []*PV
	for i, d := range devs {
		pv, err := ReadPV(Source{Path: fmt.Sprintf("/dev/test%d", i), Dev: d})
		if err != nil {
			t.Fatal(err)
		}
		pvs = append(pvs, pv)
	}
	return pvs
}

// newGroup makes a group's model of the PVs.
func newGroup(t *testing.T, g *ids, name string, pvs ...*PV) *volume.Group {
	t.Helper()
	spec := volume.GroupSpec{Name: name}
	for _, pv := range pvs {
		spec.PVs = append(spec.PVs, pv.Spec())
	}
	vg, err := volume.NewGroup(spec, g.stamp())
	if err != nil {
		t.Fatal(err)
	}
	return vg
}

// withLV returns the group with one more volume of one extent.
func withLV(t *testing.T, g *ids, vg *volume.Group, name string) *volume.Group {
	t.Helper()
	c, err := vg.CreateLV(volume.LVSpec{Name: name, Size: volume.Size{Extents: 1}}, g.stamp())
	if err != nil {
		t.Fatal(err)
	}
	return c.Group
}

// change does all of a commit.
func change(s *Store, vg *volume.Group) error {
	if err := s.Precommit(vg); err != nil {
		return err
	}
	return s.Commit()
}

func mustChange(t *testing.T, s *Store, vg *volume.Group) {
	t.Helper()
	if err := change(s, vg); err != nil {
		t.Fatal(err)
	}
	if w := s.Warnings(); len(w) > 0 {
		t.Fatalf("warnings: %q", w)
	}
}

// founded makes a group of the PVs on disk.
func founded(t *testing.T, g *ids, name string, pvs ...*PV) *Store {
	t.Helper()
	s, err := New(pvs, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	mustChange(t, s, newGroup(t, g, name, pvs...))
	return s
}

// assembled reads the devices and returns the only group there.
func assembled[D block.Device](t *testing.T, devs ...D) *Found {
	t.Helper()
	inv := Assemble(readAll(t, devs...))
	if len(inv.Groups) != 1 {
		t.Fatalf("%d groups, want 1; problems: %q", len(inv.Groups), inv.Problems)
	}
	return inv.Groups[0]
}

// reopened is assembled and opened.
func reopened[D block.Device](t *testing.T, devs ...D) *Store {
	t.Helper()
	s, err := Open(assembled(t, devs...), testOptions())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// textOf identifies a group by everything that it says.
func textOf(vg *volume.Group) string {
	if vg == nil {
		return "no group"
	}
	return string(vgtext.Encode(vg))
}

// long multiplies a number of seeds or steps when COWL_LONG is set.
func long(n int) int {
	if os.Getenv("COWL_LONG") != "" {
		return 20 * n
	}
	return n
}
