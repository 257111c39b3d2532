package manager

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cowl/internal/errs"
	"cowl/internal/format/parttable"
	"cowl/internal/lvmtest"
	"cowl/internal/volume"
)

// copyPartition copies a partition into a file of its own, which lvm2 can judge.
func copyPartition(t *testing.T, disk string, number int, to string, back bool) {
	t.Helper()
	d, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	info, _ := d.Stat()
	parts, err := parttable.Read(d, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range parts {
		if p.Number != number {
			continue
		}
		inside := io.NewSectionReader(d, p.Start, p.Len)
		if back {
			_, err = io.Copy(io.NewOffsetWriter(d, p.Start), io.LimitReader(f, p.Len))
		} else {
			_, err = io.Copy(f, inside)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("%s has no partition %d", disk, number)
}

// The issue's own case: a disk image with a logical partition of type 8e.
func TestGroupInAPartition(t *testing.T) {
	r := newRig(t)
	disk := r.partitioned("disk.img", 128*mib, "label: dos\n1: size=20M, type=83\n2: size=100M, type=5\n5: size=40M, type=8e\n6: size=40M, type=8e\n")
	_, err := r.host().CreatePVs(ctx, []string{disk + "#9"}, PVCreate{})
	wantErr(t, err, errs.NotFound, "the disk has no partition 9")
	_, err = r.host().CreatePVs(ctx, []string{disk + "#0"}, PVCreate{})
	wantErr(t, err, errs.NotFound, "No device found for")
	r.group("vg", disk+"#5")
	g := r.open("vg")
	r.lv(g, "data", 5)
	data := pattern(7, 20*mib)
	r.write(g, "data", data)

	// The lock is the disk's: nobody gets at it through another partition.
	_, err = r.host().CreatePVs(ctx, []string{disk + "#6"}, PVCreate{})
	wantErr(t, err, errs.Busy, disk)
	if _, err := g.AddPVs(ctx, []string{disk + "#6"}); err != nil { // but the group itself does
		t.Fatal(err)
	}
	r.close(g)

	want := "vg disk.img#5 disk.img#6 data:5"
	wantSummary(t, r.scan(), want)
	text, _ := os.ReadFile(filepath.Join(r.dir, "state/cowl/devices"))
	if !strings.Contains(string(text), "DEVNAME="+disk+" PVID=") || !strings.Contains(string(text), " PART=5\n") {
		t.Errorf("devices file:\n%s", text)
	}
	r.o.Devices = []string{disk} // found by scanning the disk
	inv := r.scan()
	r.quiet(inv)
	wantSummary(t, inv, want)
	g = r.open("vg")
	r.verify(g, "data", data)
	r.close(g)
	r.o.Devices = []string{disk + "#5"} // or named by itself
	if inv := r.scan(); len(inv.Groups) != 1 || len(inv.Groups[0].PVs) != 2 || !inv.Groups[0].PVs[1].Missing {
		t.Errorf("with one partition only: %v", summary(inv))
	}

	l := lvmtest.New(t)
	p5, p6 := filepath.Join(r.dir, "p5"), filepath.Join(r.dir, "p6")
	copyPartition(t, disk, 5, p5, false)
	copyPartition(t, disk, 6, p6, false)
	l.Attach(p5, p6)
	l.Run("vgck", "vg")
	if got := strings.Fields(l.Run("lvs", "--noheadings", "-o", "name,size", "--units", "m", "vg")); strings.Join(got, " ") != "data 20.00m" {
		t.Errorf("lvm2 sees %q", got)
	}
	l.Run("lvcreate", "-an", "-Zn", "-Wn", "-l3", "-n", "lvms", "vg")
	l.Detach()
	copyPartition(t, disk, 5, p5, true)
	copyPartition(t, disk, 6, p6, true)
	r.o.Devices = []string{disk}
	wantSummary(t, r.scan(), "vg disk.img#5 disk.img#6 data:5 lvms:3")
}

// A file may be called like a partition.
func TestFileNamedLikeAPartition(t *testing.T) {
	r := newRig(t)
	a := r.image("odd#1", 64*mib)
	r.group("vg", a)
	wantSummary(t, r.scan(), "vg odd#1")
	r.close(r.open("vg"))
	if got := partitionName("x", 3); got != "x#3" {
		t.Error(got)
	}
}

// lvm2's groups are opened, changed, and given back.
func TestGroupMadeByLVM(t *testing.T) {
	l := lvmtest.New(t)
	devs, images := l.Create(64*mib, 64*mib, 64*mib)
	l.Run("vgcreate", "theirs", devs[0], devs[1])
	l.Run("lvcreate", "-an", "-Zn", "-Wn", "-l20", "-n", "wide", "theirs")
	l.Run("vgchange", "--addtag", "kept", "theirs")

	r := newRig(t)
	r.o.Devices = images
	_, err := r.host().OpenGroup(ctx, "theirs")
	wantErr(t, err, errs.Busy, "loop") // the kernel may write to it
	r.quiet(r.scan())                  // reading is free
	l.Detach()
	g := r.open("theirs")
	r.write(g, "wide", pattern(1, 3*mib))
	r.lv(g, "ours", 2)
	if _, err := g.CreateSnapshots(ctx, []volume.SnapshotSpec{{Origin: "wide", Name: "s", Size: volume.Size{Extents: 2}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.AddPVs(ctx, []string{images[2]}); err != nil {
		t.Fatal(err)
	}
	r.close(g)

	l.Attach(images...)
	l.Run("vgck", "theirs")
	got := strings.Fields(l.Run("lvs", "--noheadings", "-o", "name,seg_count,origin,tags", "--separator", ":", "theirs"))
	if strings.Join(got, " ") != "ours:1:: s:1:wide: wide:2::" {
		t.Errorf("lvm2 sees %q", got)
	}
	if got := strings.TrimSpace(l.Run("vgs", "--noheadings", "-o", "pv_count,tags", "--separator", ":", "theirs")); got != "3:kept" {
		t.Errorf("lvm2 sees %q", got)
	}
	l.Run("lvremove", "-f", "theirs/ours")
	l.Run("vgexport", "theirs")
	l.Detach()
	_, err = r.host().OpenGroup(ctx, "theirs")
	wantErr(t, err, errs.Conflict, "is exported")
}

// A group of ours moves to a host with LVM, and back.
func TestLVMUsesADevicesFileOfOurs(t *testing.T) {
	r := newRig(t)
	l := lvmtest.New(t)
	devs, images := l.Create(64 * mib)
	// On a loop device, the file behind it is what is remembered.
	res, err := r.host().CreatePVs(ctx, []string{devs[0]}, PVCreate{})
	if err != nil {
		t.Fatalf("%v %+v", err, res)
	}
	text, _ := os.ReadFile(filepath.Join(r.dir, "state/cowl/devices"))
	if !strings.Contains(string(text), "IDTYPE=loop_file IDNAME="+images[0]+" DEVNAME="+devs[0]) {
		t.Errorf("devices file:\n%s", text)
	}
	inv := r.scan()
	r.quiet(inv)
	wantSummary(t, inv, "- "+filepath.Base(devs[0]))
	if inv.Orphans[0].Major != 7 {
		t.Errorf("the loop device has major number %d", inv.Orphans[0].Major)
	}
	if got := strings.TrimSpace(l.Run("pvs", "--noheadings", "-o", "pv_uuid")); got != inv.Orphans[0].ID.String() {
		t.Errorf("lvm2 sees PV %q", got)
	}
	l.Detach()
	inv = r.scan()
	r.quiet(inv)
	wantSummary(t, inv, "- "+filepath.Base(images[0]))
}
