package manager

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cowl/internal/errs"
	"cowl/internal/judge"
	"cowl/internal/volume"
)

// partitioned makes an image with a partition table, as sfdisk takes it.
func (r *rig) partitioned(name string, size int64, script string) string {
	r.t.Helper()
	judge.Need(r.t, "sfdisk")
	path := r.image(name, size)
	cmd := exec.Command(judge.Find("sfdisk"), "-q", path)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	return path
}

// What is on a device is not destroyed unless somebody says so.
func TestPVCreateRefuses(t *testing.T) {
	r := newRig(t)
	make := func(kind string, program string, args ...string) string {
		size := int64(64 * mib)
		if kind == "xfs" {
			size = 320 * mib // the smallest that mkfs.xfs makes
		}
		path := r.image(kind+".img", size)
		if judge.Find(program) == "" {
			return ""
		}
		if out, err := exec.Command(judge.Find(program), append(args, path)...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", program, err, out)
		}
		return path
	}
	luks := r.image("luks.img", 64*mib)
	if err := os.WriteFile(luks, append([]byte("LUKS\xba\xbe\x00\x02"), make4M()...), 0o600); err != nil {
		t.Fatal(err)
	}
	qcow := filepath.Join(r.dir, "q.img")
	if judge.Find("qemu-img") != "" {
		if out, err := exec.Command(judge.Find("qemu-img"), "create", "-q", "-f", "qcow2", "-o", "preallocation=full", qcow, "8M").CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	} else {
		qcow = ""
	}
	for path, want := range map[string]string{
		make("ext2", "mke2fs", "-q"):               "ext2 signature detected on %s at offset 1080. Wipe it?",
		make("ext3", "mke2fs", "-q", "-j"):         "ext3 signature detected on %s at offset 1080. Wipe it?",
		make("ext4", "mke2fs", "-q", "-t", "ext4"): "ext4 signature detected on %s at offset 1080. Wipe it?",
		make("xfs", "mkfs.xfs", "-q"):              "xfs signature detected on %s at offset 0. Wipe it?",
		make("swap", "mkswap"):                     "swap signature detected on %s at offset 4086. Wipe it?",
		luks:                                       "crypto_LUKS signature detected on %s at offset 0. Wipe it?",
		qcow:                                       "qcow2 signature detected on %s at offset 0. Wipe it?",
	} {
		if path == "" {
			continue // the program that makes it is not installed
		}
		before := head(t, path)
		_, err := r.host().CreatePVs(ctx, []string{path}, PVCreate{})
		wantErr(t, err, errs.Conflict, "Aborted wiping of")
		if head(t, path) != before {
			t.Errorf("%s was changed", path)
		}
		asked := ""
		yes := func(q string) (bool, error) { asked = q; return true, nil }
		res, err := r.host().CreatePVs(ctx, []string{path}, PVCreate{Confirm: yes})
		if err != nil || !strings.Contains(asked, strings.Replace(want, "%s", path, 1)) || !strings.HasPrefix(res.Notes[0], "Wiping ") {
			t.Errorf("%s: %v; asked %q, want %q", path, err, asked, want)
		}
		if judge.Find("blkid") != "" {
			out, _ := exec.Command(judge.Find("blkid"), "-p", "-o", "value", "-s", "TYPE", path).CombinedOutput()
			if got := strings.TrimSpace(string(out)); got != "LVM2_member" {
				t.Errorf("blkid takes %s for %q", path, got)
			}
		}
	}

	small := r.image("small.img", mib)
	_, err := r.host().CreatePVs(ctx, []string{small}, PVCreate{})
	wantErr(t, err, errs.NoSpace, "Cannot use "+small+": device is too small (pv_min_size)")
	_, err = r.host().CreatePVs(ctx, []string{r.dir + "/nosuch"}, PVCreate{})
	wantErr(t, err, errs.NotFound, "No device found for")
	_, err = r.host().CreatePVs(ctx, []string{r.dir}, PVCreate{})
	wantErr(t, err, errs.Usage, "is a directory")
	if judge.Find("sfdisk") != "" {
		disk := r.partitioned("disk.img", 64*mib, "label: gpt\n- 10M L\n")
		_, err = r.host().CreatePVs(ctx, []string{disk}, PVCreate{Confirm: func(string) (bool, error) { return true, nil }})
		wantErr(t, err, errs.Conflict, "Cannot use "+disk+": device is partitioned")
		wantErr(t, err, errs.Conflict, "physical volume not initialized")
	}
}

// head returns the first bytes of a file.
func head(t *testing.T, path string) string {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 2*mib)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func make4M() []byte { return make([]byte, 4*mib) }

// A PV in use is not taken from its group by accident.
func TestPVsInUse(t *testing.T) {
	r := newRig(t)
	a, b := r.image("a.img", 64*mib), r.image("b.img", 64*mib)
	r.group("vg", a, b)
	h := r.host()
	_, err := h.CreatePVs(ctx, []string{a}, PVCreate{})
	wantErr(t, err, errs.Conflict, `of volume group "vg" without -ff`)
	_, err = h.RemovePVs(ctx, []string{a}, PVCreate{})
	wantErr(t, err, errs.Conflict, "is used by VG vg so please use vgreduce first.")
	_, err = h.RemovePVs(ctx, []string{r.image("empty.img", 4*mib)}, PVCreate{})
	wantErr(t, err, errs.NotFound, "No PV found on device")
	_, err = h.CreateGroup(ctx, volume.GroupSpec{Name: "vg2"}, []string{a}, PVCreate{})
	wantErr(t, err, errs.Conflict, "is already in volume group 'vg'")
	_, err = h.CreateGroup(ctx, volume.GroupSpec{Name: "vg"}, []string{r.image("c.img", 64*mib)}, PVCreate{})
	wantErr(t, err, errs.Exists, "A volume group called vg already exists.")
	_, err = h.CreateGroup(ctx, volume.GroupSpec{Name: "bad name"}, []string{a}, PVCreate{})
	wantErr(t, err, errs.Usage, "is invalid")
	_, err = h.CreateGroup(ctx, volume.GroupSpec{Name: "vg3", ExtentSize: 6}, []string{r.dir + "/c.img"}, PVCreate{})
	wantErr(t, err, errs.Usage, "Physical Extent size must be")
	wantSummary(t, r.scan(), "vg a.img b.img")

	// Even alone, out of sight of its group's other PVs.
	r.o.Devices = []string{b}
	_, err = r.host().CreatePVs(ctx, []string{b}, PVCreate{})
	wantErr(t, err, errs.Conflict, "without -ff")
	r.o.Devices = nil

	// No is the answer where nobody can be asked.
	_, err = h.CreatePVs(ctx, []string{a}, PVCreate{Force: 2})
	wantErr(t, err, errs.Conflict, "not initialized")
	question := ""
	yes := PVCreate{Force: 2, Confirm: func(q string) (bool, error) { question = q; return true, nil }}
	if _, err := h.CreatePVs(ctx, []string{a}, yes); err != nil || question != `Really INITIALIZE physical volume "`+a+`" of volume group "vg"` {
		t.Errorf("forced: %v, asked %q", err, question)
	}
	inv := r.scan()
	wantSummary(t, inv, "vg [unknown] b.img", "- a.img")
	if !strings.Contains(strings.Join(inv.Warnings, "\n"), "VG vg is missing PV") {
		t.Errorf("warnings: %v", inv.Warnings)
	}

	// A group with a missing PV can be looked at and not changed.
	g := r.open("vg")
	_, err = g.CreateLV(ctx, volume.LVSpec{Name: "x", Size: volume.Size{Extents: 1}})
	wantErr(t, err, errs.Conflict, "Cannot change VG vg while PVs are missing")
	r.close(g)
}

// Groups that are not ours are listed, and not opened.
func TestForeignGroups(t *testing.T) {
	for name, c := range map[string]struct {
		alter func(*volume.Group)
		kind  errs.Kind
		text  string
	}{
		"exported":    {func(g *volume.Group) { g.Status = append(g.Status, "EXPORTED") }, errs.Conflict, `Volume group vg is exported`},
		"another's":   {func(g *volume.Group) { g.SystemID = "elsewhere" }, errs.Unsupported, "with system ID elsewhere"},
		"shared":      {func(g *volume.Group) { g.LockType = "sanlock" }, errs.Unsupported, "lock type sanlock"},
		"not so bad":  {func(g *volume.Group) { g.LockType = "none" }, errs.Other, ""},
		"what's this": {func(g *volume.Group) { g.Tags = []string{"t"} }, errs.Other, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.group("vg", r.image("a.img", 64*mib))
			local, err := r.host().OpenLocal(ctx, "vg")
			if err != nil {
				t.Fatal(err)
			}
			g := local.store.Group()
			c.alter(g)
			if err := local.store.Precommit(g); err != nil {
				t.Fatal(err)
			}
			if err := local.store.Commit(); err != nil {
				t.Fatal(err)
			}
			r.close(local)
			opened, err := r.host().OpenGroup(ctx, "vg")
			if c.text == "" {
				if err != nil {
					t.Fatal(err)
				}
				r.close(opened)
			} else {
				wantErr(t, err, c.kind, c.text)
			}
			wantSummary(t, r.scan(), "vg a.img")
		})
	}
	_, err := newRig(t).host().OpenGroup(ctx, "nosuch")
	wantErr(t, err, errs.NotFound, `Volume group "nosuch" not found`)
}
