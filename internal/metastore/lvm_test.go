package metastore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/format/mda"
	"cowl/internal/format/pvlabel"
	"cowl/internal/lvmtest"
	"cowl/internal/volume"
)

// PVs are laid out as pvcreate would do it, byte for byte.
func TestLayoutIsLVMs(t *testing.T) {
	l := lvmtest.New(t)
	const odd = 100*mib + 300*512
	paths, images := l.Create(odd)
	for _, c := range []struct {
		args string
		o    PVOptions
	}{
		{"", PVOptions{}},
		{"--pvmetadatacopies 2", PVOptions{MetadataCopies: ptr(2)}},
		{"--pvmetadatacopies 0", PVOptions{MetadataCopies: ptr(0)}},
		{"--metadatasize 3m", PVOptions{MetadataSize: 3 * mib}},
		{"--metadatasize 3m --pvmetadatacopies 2", PVOptions{MetadataSize: 3 * mib, MetadataCopies: ptr(2)}},
		{"--metadatasize 100k --pvmetadatacopies 2 --dataalignment 64k", PVOptions{MetadataSize: 100 << 10, MetadataCopies: ptr(2), DataAlignment: 64 << 10}},
		{"--dataalignment 8m --pvmetadatacopies 2", PVOptions{DataAlignment: 8 * mib, MetadataCopies: ptr(2)}},
		{"--dataalignment 7k", PVOptions{DataAlignment: 7 << 10}},
		{"--dataalignment 4k --metadatasize 32k", PVOptions{DataAlignment: 4 << 10, MetadataSize: 32 << 10}},
		{"--dataalignment 4k --pvmetadatacopies 0", PVOptions{DataAlignment: 4 << 10, MetadataCopies: ptr(0)}},
		{"--dataalignmentoffset 7s", PVOptions{DataAlignmentShift: 7 * 512}},
		{"--dataalignmentoffset 7s --bootloaderareasize 5k", PVOptions{DataAlignmentShift: 7 * 512, BootloaderAreaSize: 5 << 10}},
		{"--bootloaderareasize 3m --pvmetadatacopies 0", PVOptions{BootloaderAreaSize: 3 * mib, MetadataCopies: ptr(0)}},
		{"--dataalignment 96k --bootloaderareasize 100k", PVOptions{DataAlignment: 96 << 10, BootloaderAreaSize: 100 << 10}},
		{"--setphysicalvolumesize 50m --pvmetadatacopies 2", PVOptions{Size: 50 * mib, MetadataCopies: ptr(2)}},
		{"--labelsector 3", PVOptions{LabelSector: ptr(3)}},
	} {
		t.Run(c.args, func(t *testing.T) {
			c.o.ID = newIDs().next()
			if err := errors.Join(os.Truncate(images[0], 0), os.Truncate(images[0], odd)); err != nil {
				t.Fatal(err)
			}
			args := append([]string{"pvcreate", "-y", "-ff", "--uuid", c.o.ID.String(), "--norestorefile"}, strings.Fields(c.args)...)
			l.Run(append(args, paths[0])...)
			d := mem.New(odd)
			pv, err := CreatePV(Source{Path: "ours", Dev: d}, c.o)
			if err != nil {
				t.Fatal(err)
			}
			sameBytes(t, open(t, images[0])[0], d, 0, pvlabel.Sectors*pvlabel.Size)
			for _, m := range pv.MDAs {
				sameBytes(t, open(t, images[0])[0], d, m.Offset, mda.HeaderSize)
			}
		})
	}
}

func sameBytes(t *testing.T, theirs, ours block.Device, off, length int64) {
	t.Helper()
	a, b := make([]byte, length), make([]byte, length)
	_, err1 := theirs.ReadAt(a, off)
	_, err2 := ours.ReadAt(b, off)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	for i := range a {
		if a[i] != b[i] {
			t.Fatalf("byte %d: lvm2 has %#x, we have %#x\n%s\n%s", off+int64(i), a[i], b[i], bytes.TrimRight(a, "\x00"), bytes.TrimRight(b, "\x00"))
		}
	}
}

// A group that cowl made, changed, extended and reduced satisfies lvm2 at each
// step, which then changes it too.
func TestLVMAcceptsOurs(t *testing.T) {
	l := lvmtest.New(t)
	paths, images := l.Create(64*mib, 64*mib, 64*mib)
	devs := open(t, images...)
	g := newIDs()
	var pvs []*PV
	for i, o := range []PVOptions{{MetadataCopies: ptr(2)}, {}, {MetadataCopies: ptr(0), BootloaderAreaSize: mib}} {
		o.ID = g.next()
		pv, err := CreatePV(Source{Path: paths[i], Dev: devs[i]}, o)
		if err != nil {
			t.Fatal(err)
		}
		headers(t, l, paths[i], pv)
		pvs = append(pvs, pv)
	}
	s, err := New(pvs[:2], testOptions())
	if err != nil {
		t.Fatal(err)
	}
	mustChange(t, s, newGroup(t, g, "ours", pvs[:2]...))
	judge(t, l, s)

	mustChange(t, s, withLV(t, g, withLV(t, g, s.Group(), "base"), "other"))
	c, err := s.Group().CreateSnapshot(volume.SnapshotSpec{Origin: "base", Name: "snap", Size: volume.Size{Extents: 1}}, g.stamp())
	if err != nil {
		t.Fatal(err)
	}
	mustChange(t, s, c.Group)
	judge(t, l, s)
	if c, err = s.Group().StartMerge(volume.MergeSpec{Name: "snap"}); err != nil {
		t.Fatal(err)
	}
	mustChange(t, s, c.Group)
	judge(t, l, s)

	if err := s.Attach(pvs[2]); err != nil {
		t.Fatal(err)
	}
	if c, err = s.Group().AddPV(pvs[2].Spec()); err != nil {
		t.Fatal(err)
	}
	mustChange(t, s, c.Group)
	judge(t, l, s)
	if c, err = s.Group().RemovePV("pv1"); err != nil {
		t.Fatal(err)
	}
	mustChange(t, s, c.Group)
	judge(t, l, s)
	if got := strings.Fields(l.Run("pvs", "--noheadings", "-o", "pv_name,pv_in_use,vg_name", "--separator", ",")); len(got) != 3 || !slices.Contains(got, paths[1]+",,") {
		t.Errorf("after vgreduce pvs says %q", got)
	}
	for i, pv := range readAll(t, devs...) {
		headers(t, l, paths[i], pv)
	}

	// lvm2 goes on, and so do we.
	l.Run("lvcreate", "-an", "-Zn", "-Wn", "-l1", "-n", "theirs", "ours")
	l.Run("lvremove", "-y", "ours/other")
	if err := s.Precommit(s.Group()); err == nil || !strings.Contains(err.Error(), "changed by another process") {
		t.Fatalf("a change over lvm2's: %v, want a refusal", err)
	}
	s = reopened(t, devs...)
	mustChange(t, s, withLV(t, g, s.Group(), "after"))
	judge(t, l, s)
	if got := strings.Join(strings.Fields(l.Run("lvs", "--noheadings", "-o", "lv_name")), " "); got != "after base theirs" {
		t.Errorf("lvs says %q", got)
	}

	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
	if out, talk, err := l.Try("vgs"); out != "" || talk != "" || err != nil {
		t.Errorf("after vgremove: %s%s%v", out, talk, err)
	}
	l.Run("vgcreate", "reused", paths[0], paths[1], paths[2])
	theirs := assembled(t, devs...).Group
	for i, pv := range newGroup(t, g, "reused", pvs...).PVs {
		if got, want := *theirs.PVs[i], *pv; got.PECount != want.PECount || got.PEStart != want.PEStart || got.DevSize != want.DevSize ||
			got.BAStart != want.BAStart || got.BASize != want.BASize {
			t.Errorf("of the same PV lvm2 makes %+v, and we %+v", got, want)
		}
	}
	if err := WipePV(Source{Path: paths[2], Dev: devs[2]}); err != nil {
		t.Fatal(err)
	}
	if got := l.Run("pvs", "--noheadings", "-o", "pv_name"); strings.Contains(got, paths[2]) {
		t.Errorf("after pvremove pvs shows\n%s", got)
	}
}

// lvm2 places each text where mda.Place says, also when it wraps around, and
// groups of lvm2's stay accepted after many commits by us in between.
func TestWrappingAsLVMDoes(t *testing.T) {
	l := lvmtest.New(t)
	paths, images := l.Create(64*mib, 64*mib)
	devs := open(t, images...)
	for _, p := range paths {
		l.Run("pvcreate", "--metadatasize", "32k", "--dataalignment", "4k", p)
	}
	l.Run("vgcreate", "theirs", paths[0], paths[1])
	place := func() mda.Locn { return readAll(t, devs...)[0].MDAs[0].header.Slots[mda.Committed] }
	wraps := 0
	was := place()
	for i := range long(20) {
		if i%8 == 7 {
			args := []string{"vgchange"}
			for _, tag := range assembled(t, devs...).Group.Tags {
				args = append(args, "--deltag", tag)
			}
			l.Run(append(args, "theirs")...)
		} else {
			l.Run("vgchange", "--addtag", fmt.Sprintf("t%d.%s", i, strings.Repeat("x", 900)), "theirs")
		}
		now := place()
		if want, err := mda.Place(32<<10, was, now.Length); err != nil || now.Offset != want {
			t.Fatalf("after %+v lvm2 put %+v, we would have at %d (%v)", was, now, want, err)
		}
		if now.Offset+now.Length > 32<<10 {
			wraps++
		}
		// We do a few, too; lvm2's next text follows ours.
		s := reopened(t, devs...)
		for range i % 3 {
			mustChange(t, s, s.Group())
		}
		if was = place(); was.Offset+was.Length > 32<<10 {
			wraps++
		}
	}
	if wraps < 2 {
		t.Errorf("%d texts wrapped around, the test is to see several", wraps)
	}
	judge(t, l, reopened(t, devs...))
	t.Logf("%d texts wrapped around", wraps)
}

// What lvm2 says of metadata areas, cowl says as well.
func TestAreasAsLVMSeesThem(t *testing.T) {
	l := lvmtest.New(t)
	paths, images := l.Create(64*mib, 64*mib, 64*mib)
	devs := open(t, images...)
	l.Run("pvcreate", "--pvmetadatacopies", "2", paths[0])
	l.Run("vgcreate", "areas", paths[0], paths[1], paths[2])
	l.Run("pvchange", "--metadataignore", "y", paths[1])
	g := newIDs()
	s := reopened(t, devs...)
	mustChange(t, s, withLV(t, g, s.Group(), "a"))
	judge(t, l, s)

	pvs := readAll(t, devs...)
	if !pvs[1].MDAs[0].Ignored || bytes.Contains(pvs[1].MDAs[0].Text, []byte("a {")) {
		t.Error("the ignored area was written")
	}
	// One area loses its header, another its text; lvm2 repairs neither without
	// being told, the next commit does.
	damage(t, devs[0], pvs[0].MDAs[1].Offset)
	m := pvs[2].MDAs[0]
	damage(t, devs[2], m.Offset+int64(m.header.Slots[mda.Committed].Offset))
	s = reopened(t, devs...)
	if f := assembled(t, devs...); len(f.Problems) != 2 {
		t.Errorf("two damages are described as %q", f.Problems)
	}
	mustChange(t, s, withLV(t, g, s.Group(), "b"))
	judge(t, l, s)

	var report struct {
		Report []struct{ PV []map[string]string }
	}
	out := l.Run("pvs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", "pv_name,pv_mda_free,pv_mda_size,pv_mda_count,pv_mda_used_count")
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	rows := map[string]map[string]string{} // lvm2 sorts by name, and loop10 comes before loop9
	for _, row := range report.Report[0].PV {
		rows[row["pv_name"]] = row
	}
	for i, pv := range readAll(t, devs...) {
		free, size, used := int64(1<<62), int64(1<<62), 0
		for _, m := range pv.MDAs {
			free, size = min(free, m.Free()), min(size, m.Size)
			if !m.Ignored {
				used++
			}
		}
		got := rows[paths[i]]
		want := map[string]string{
			"pv_mda_free": strconv.FormatInt(free, 10), "pv_mda_size": strconv.FormatInt(size, 10),
			"pv_mda_count": strconv.Itoa(len(pv.MDAs)), "pv_mda_used_count": strconv.Itoa(used),
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%s: %s is %s, lvm2 says %s", pv.Path, k, v, got[k])
			}
		}
	}
}

// damage overwrites a sector.
func damage(t *testing.T, d block.Device, off int64) {
	t.Helper()
	if _, err := d.WriteAt(bytes.Repeat([]byte("damage! "), 64), off); err != nil {
		t.Fatal(err)
	}
}

// lvm2 restores from the backup and archive files that cowl writes.
func TestLVMRestoresOurBackups(t *testing.T) {
	l := lvmtest.New(t)
	paths, images := l.Create(64 * mib)
	devs := open(t, images...)
	g := newIDs()
	pv, err := CreatePV(Source{Path: paths[0], Dev: devs[0]}, PVOptions{ID: g.next()})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Writer: testWriter, BackupDir: filepath.Join(l.Dir, "backup"), ArchiveDir: filepath.Join(l.Dir, "archive")}
	s, err := New([]*PV{pv}, o)
	if err != nil {
		t.Fatal(err)
	}
	mustChange(t, s, newGroup(t, g, "vg", pv))
	mustChange(t, s, withLV(t, g, s.Group(), "first"))
	mustChange(t, s, withLV(t, g, s.Group(), "second"))

	list := l.Run("vgcfgrestore", "--list", "vg")
	if n := strings.Count(list, "VG name:"); n != 3 { // two in the archive, and the backup
		t.Errorf("vgcfgrestore --list shows %d files:\n%s", n, list)
	}
	l.Run("vgcfgrestore", "--force", "vg")
	if got := strings.Fields(l.Run("lvs", "--noheadings", "-o", "lv_name", "vg")); len(got) != 2 {
		t.Errorf("from the backup lvm2 restored %q", got)
	}
	files, err := archived(o.ArchiveDir, "vg")
	if err != nil || len(files) < 2 {
		t.Fatalf("archive: %v, %v", files, err)
	}
	l.Run("vgcfgrestore", "--force", "-f", files[1].path, "vg")
	if got := strings.Fields(l.Run("lvs", "--noheadings", "-o", "lv_name", "vg")); len(got) != 1 || got[0] != "first" {
		t.Errorf("from the archive lvm2 restored %q", got)
	}
	judge(t, l, reopened(t, devs...))
}
