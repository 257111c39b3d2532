package metastore

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/format/vgtext"
	"cowl/internal/lvmtest"
	"cowl/internal/volume"
)

// open opens images for reading and writing beside the loop devices that are
// attached to them; all go through the same page cache.
func open(t *testing.T, images ...string) []block.Device {
	t.Helper()
	var devs []block.Device
	for _, image := range images {
		d, err := file.Open(image, file.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		devs = append(devs, d)
	}
	return devs
}

// judge lets lvm2 look at a group from all sides; it must not even warn. What
// lvm2 reports of the group must be what ours says.
func judge(t *testing.T, l *lvmtest.LVM, s *Store) {
	t.Helper()
	vg := s.Group()
	for _, args := range [][]string{
		{"vgck", "-v", vg.Name}, {"pvs", "-a"}, {"vgdisplay", "-v", vg.Name},
		{"vgcfgbackup", "-f", filepath.Join(l.Dir, "judged"), vg.Name},
	} {
		_, talk, err := l.Try(args...)
		if err != nil || strings.Contains(talk, "WARNING") || strings.Contains(strings.ToLower(talk), "fail") {
			t.Errorf("lvm %v: %v\n%s", args, err, talk)
		}
	}
	saved, err := os.ReadFile(filepath.Join(l.Dir, "judged"))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := vgtext.Decode(saved)
	if err != nil {
		t.Fatal(err)
	}
	ours := vg.Clone()
	for _, g := range []*volume.Group{ours, theirs} { // what is of a writer, a host or a scan
		vgtext.Sign(g, vgtext.Signature{})
		for i, pv := range g.PVs {
			pv.Device, pv.DeviceID, pv.DeviceIDType = "", "", ""
			renameKey(g, pv.Key, fmt.Sprintf("pv%d", i)) // lvm2 counts them anew
		}
	}
	a, b := strings.Split(textOf(ours), "\n"), strings.Split(textOf(theirs), "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			t.Errorf("lvm2 sees in line %d: %s, ours is: %s\nall of lvm2's:\n%s", i+1, b[i], a[i], textOf(theirs))
			return
		}
	}
}

// renameKey gives a PV another key. Keys go down only, so that none is taken.
func renameKey(g *volume.Group, from, to string) {
	g.PV(from).Key = to
	for _, lv := range g.LVs {
		for _, s := range lv.Segments {
			for i := range s.Stripes {
				if s.Stripes[i].PV == from {
					s.Stripes[i].PV = to
				}
			}
		}
	}
}

// headers compares what pvck finds on a device with what ReadPV found.
func headers(t *testing.T, l *lvmtest.LVM, path string, pv *PV) {
	t.Helper()
	dump := l.Run("pvck", "--dump", "headers", path)
	if strings.Contains(dump, "CHECK") || strings.Contains(dump, "bad") {
		t.Errorf("pvck complains:\n%s", dump)
	}
	for i, m := range pv.MDAs {
		for slot, at := range m.header.Slots {
			for field, want := range map[string]uint64{"offset": at.Offset, "size": at.Length} {
				line := fmt.Sprintf("mda_header_%d.raw_locn[%d].%s %d\n", i+1, slot, field, want)
				if !strings.Contains(dump, line) {
					t.Errorf("pvck does not say %q:\n%s", line, dump)
				}
			}
		}
		if text := l.Run("pvck", "--dump", "metadata", "--settings", fmt.Sprintf("mda_num=%d", i+1), path); m.Text != nil && !strings.Contains(text, string(m.Text)) {
			t.Errorf("pvck finds other metadata in area %d of %s:\n%s", i+1, path, text)
		}
	}
}
