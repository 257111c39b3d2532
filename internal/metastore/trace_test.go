package metastore

import (
	"flag"
	"os"
	"testing"

	"cowl/internal/block/filter/trace"
)

var update = flag.Bool("update", false, "write the golden files")

// The order of writes and flushes is what all safety rests on. A change of it
// shows here as a difference to be read line by line.
func TestTrace(t *testing.T) {
	log := &trace.Log{}
	g := newIDs()
	var devs []*trace.Device
	for i, d := range mems(3) {
		devs = append(devs, log.Wrap([]string{"a", "b", "c"}[i], d))
	}
	step := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		log.Note("# ^ %s", what)
	}
	var pvs []*PV
	for i, o := range []PVOptions{{MetadataCopies: ptr(2)}, {}, {MetadataCopies: ptr(0)}} {
		o.ID = g.next()
		pv, err := CreatePV(Source{Path: "dev", Dev: devs[i]}, o)
		step("pvcreate", err)
		pvs = append(pvs, pv)
	}
	s, err := New(pvs[:2], testOptions())
	if err != nil {
		t.Fatal(err)
	}
	step("precommit of a new group on a, b", s.Precommit(newGroup(t, g, "vg", pvs[:2]...)))
	step("commit", s.Commit())
	step("precommit", s.Precommit(withLV(t, g, s.Group(), "lv")))
	step("commit", s.Commit())
	step("precommit", s.Precommit(withLV(t, g, s.Group(), "lv2")))
	step("revert", s.Revert())
	if err := s.Attach(pvs[2]); err != nil {
		t.Fatal(err)
	}
	c, err := s.Group().AddPV(pvs[2].Spec())
	if err != nil {
		t.Fatal(err)
	}
	step("precommit with c", s.Precommit(c.Group))
	step("commit", s.Commit())
	if c, err = s.Group().RemovePV("pv1"); err != nil {
		t.Fatal(err)
	}
	step("precommit without b", s.Precommit(c.Group))
	step("commit", s.Commit())
	step("remove", s.Remove())
	step("pvremove", WipePV(Source{Path: "dev", Dev: devs[0]}))

	got := log.Take()
	const golden = "testdata/trace.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the order of operations changed:\n%s\nwas:\n%s", got, want)
	}
}
