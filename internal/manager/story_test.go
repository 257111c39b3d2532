package manager

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cowl/internal/errs"
	"cowl/internal/volume"
)

// A user without root makes a group in two files, and finds everything again
// in the next command.
func TestGroupInFiles(t *testing.T) {
	r := newRig(t)
	a, b := r.image("a.img", 64*mib), r.image("b with blank.img", 32*mib)
	res, err := r.host().CreatePVs(ctx, []string{a}, PVCreate{})
	if err != nil || len(res.Names) != 1 || !strings.Contains(res.Notes[0], "successfully created") {
		t.Fatalf("CreatePVs: %+v, %v", res, err)
	}
	wantSummary(t, r.scan(), "- a.img")
	r.group("vg", a, b) // b becomes a PV on the way
	wantSummary(t, r.scan(), "vg a.img b with blank.img")

	g := r.open("vg")
	r.lv(g, "data", 18) // more than a.img has
	data := pattern(3, 70*mib)
	r.write(g, "data", data)
	if _, err := g.CreateSnapshots(ctx, []volume.SnapshotSpec{{Origin: "data", Name: "snap", Size: volume.Size{Extents: 2}}}); err != nil {
		t.Fatal(err)
	}
	r.write(g, "data", pattern(9, mib))
	r.close(g)

	inv := r.scan()
	r.quiet(inv)
	wantSummary(t, inv, "vg a.img b with blank.img data:18 snap:2 snapshot0:18")
	g = r.open("vg")
	r.verify(g, "snap", data)
	r.verify(g, "data", append(pattern(9, mib), data[mib:]...))
	st, err := g.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i, pv := range st.PVs {
		if pv.Missing || pv.Path != []string{a, b}[i] || len(pv.MDAs) != 1 || pv.MDAs[0].TextSize == 0 {
			t.Errorf("PV %d: %+v", i, pv)
		}
	}
	if _, err := g.RemoveGroup(ctx); err != nil {
		t.Fatal(err)
	}
	r.close(g)
	wantSummary(t, r.scan(), "- a.img", "- b with blank.img")
	if _, err := r.host().RemovePVs(ctx, []string{a, b}, PVCreate{}); err != nil {
		t.Fatal(err)
	}
	wantSummary(t, r.scan())
	if inv := r.scan(); len(inv.Devices)+len(inv.Warnings) != 0 {
		t.Errorf("after pvremove there are still %v %v", inv.Devices, inv.Warnings)
	}
}

// What each change leaves behind as files is where LVM's users look for it.
func TestArchiveAndBackup(t *testing.T) {
	r := newRig(t)
	a := r.image("a.img", 64*mib)
	r.group("vg", a)
	g := r.open("vg")
	r.lv(g, "data", 1)
	r.close(g)
	state := filepath.Join(r.dir, "state", "cowl")
	text, err := os.ReadFile(filepath.Join(state, "backup", "vg"))
	if err != nil || !strings.Contains(string(text), "data {") || !strings.Contains(string(text), "test command") {
		t.Errorf("backup: %v\n%s", err, text)
	}
	files, err := filepath.Glob(filepath.Join(state, "archive", "vg_*.vg"))
	if err != nil || len(files) != 1 {
		t.Errorf("archive: %v %v", files, err)
	}

	// root's are LVM's.
	uid := 0
	r.o.UID, r.o.Root = &uid, filepath.Join(r.dir, "root")
	r.o.Devices = []string{a}
	g = r.open("vg")
	r.lv(g, "more", 1)
	r.close(g)
	if _, err := os.Stat(filepath.Join(r.dir, "root/etc/lvm/backup/vg")); err != nil {
		t.Error(err)
	}
}

func TestExtendAndReduce(t *testing.T) {
	r := newRig(t)
	a, b, c := r.image("a.img", 64*mib), r.image("b.img", 64*mib), r.image("c.img", 64*mib)
	r.group("vg", a)
	r.group("other", c)
	g := r.open("vg")
	if res, err := g.AddPVs(ctx, []string{b}); err != nil || len(res.Notes) != 1 || !strings.Contains(res.Notes[0], "successfully created") {
		t.Fatalf("AddPVs: %+v, %v", res, err)
	}
	_, err := g.AddPVs(ctx, []string{c})
	wantErr(t, err, errs.Conflict, "Physical volume '"+c+"' is already in volume group 'other'")
	_, err = g.AddPVs(ctx, []string{b})
	wantErr(t, err, errs.Conflict, "is already in volume group 'vg'")
	_, err = g.AddPVs(ctx, []string{filepath.Join(r.dir, "nosuch")})
	wantErr(t, err, errs.NotFound, "No device found for")
	r.lv(g, "wide", 20)
	wantSummary(t, r.scan(), "other c.img", "vg a.img b.img wide:20")
	_, err = g.RemovePVs(ctx, []string{b})
	wantErr(t, err, errs.Busy, "still in use")
	_, err = g.RemovePVs(ctx, []string{c})
	wantErr(t, err, errs.NotFound, "Failed to find physical volume")

	// Volumes can be put on one PV, by path, range and tag.
	_, err = g.CreateLV(ctx, volume.LVSpec{Name: "x", Size: volume.Size{Extents: 1}, PVs: []volume.PVRange{{PV: c, Whole: true}}})
	wantErr(t, err, errs.NotFound, `not found in Volume Group "vg"`)
	if _, err := g.CreateLV(ctx, volume.LVSpec{Name: "x", Size: volume.Size{Extents: 2}, PVs: []volume.PVRange{{PV: b, Start: 8, End: 9}}}); err != nil {
		t.Error(err)
	}
	if _, err := g.RemoveLVs(ctx, []string{"wide", "x"}); err != nil {
		t.Fatal(err)
	}

	// While the group is open its PVs are nobody else's; a PV that left is free.
	_, err = r.host().CreatePVs(ctx, []string{b}, PVCreate{Force: 2, Confirm: func(string) (bool, error) { return true, nil }})
	wantErr(t, err, errs.Busy, b)
	if _, err := g.RemovePVs(ctx, []string{b}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.host().CreatePVs(ctx, []string{b}, PVCreate{}); err != nil {
		t.Error(err)
	}
	r.close(g)
	wantSummary(t, r.scan(), "other c.img", "vg a.img", "- b.img")
}

// Sharing a lock with a group must not let a failed vgextend close the group's
// own disk.
func TestFailedExtendKeepsTheGroupsDisks(t *testing.T) {
	r := newRig(t)
	disk := r.partitioned("disk.img", 128*mib, "label: dos\n- 40M 8e\n- 40M 8e\n")
	r.o.Devices = []string{disk}
	r.group("vg", disk+"#1")
	g := r.open("vg")
	r.lv(g, "data", 2)
	file := r.image("x.img", 64*mib)
	_, err := g.AddPVs(ctx, []string{disk + "#2", file}) // the file is not in --devices
	wantErr(t, err, errs.Conflict, "not in devices list")
	r.write(g, "data", pattern(1, mib))
	if _, err := g.AddPVs(ctx, []string{disk + "#2"}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.RemovePVs(ctx, []string{disk + "#2"}); err != nil {
		t.Fatal(err)
	}
	r.verify(g, "data", pattern(1, mib))
	r.close(g)
}
