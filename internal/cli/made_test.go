package cli

import (
	"strings"
	"testing"

	"cowl/internal/lvmtest"
)

// TestLVMAcceptsOurs makes a group with cowl's verbs, step by step, and after
// each step asks lvm whether it finds the group good and shows the same of it.
func TestLVMAcceptsOurs(t *testing.T) {
	t.Parallel()
	l := lvmtest.New(t)
	const mib = 1 << 20
	devs, _ := l.Create(96*mib, 64*mib, 48*mib)
	b := &bench{t: t, lvm: l, devs: devs, dir: t.TempDir()}
	for _, step := range []string{
		"pvcreate " + devs[0],
		"pvcreate --metadatacopies 2 " + devs[2],
		"vgcreate -s 2m --addtag made vg-ours " + devs[0],
		"vgextend vg-ours " + devs[1] + " " + devs[2],
		"lvcreate -L 31m -n first vg-ours",
		"lvcreate -l 50%FREE -n home--big --addtag x --addtag a vg-ours",
		"lvcreate -L 4m vg-ours " + devs[2] + ":3-8",
		"lvcreate -L 6m -p r -C y -n ro vg-ours",
		"lvcreate -s -L 8m -n snap1 vg-ours/first",
		"lvcreate -s -l 100%ORIGIN -c 64k -p r -n snap2 /dev/vg-ours/first",
		"lvcreate -s -L 4m -n snap3 /dev/mapper/vg--ours-home----big",
		"lvextend -L +3m vg-ours/first",
		"lvextend -L +1m vg-ours/snap1 " + devs[2],
		"lvextend -l +20%ORIGIN vg-ours/snap3",
		"lvextend vg-ours/lvol0 " + devs[2] + ":0-12",
		"lvchange -p r vg-ours/lvol0",
		"lvchange --addtag db --deltag x vg-ours/home--big",
		"lvchange --addtag y vg-ours",
		"lvchange --onfull hold --hold 90s vg-ours/snap1",
		"lvremove -y vg-ours/snap2",
		"lvconvert --merge -b vg-ours/snap3",
		"lvremove -y vg-ours/lvol0 vg-ours/ro",
		"lvextend -l +100%FREE vg-ours/first",
		"lvremove -y vg-ours/first",
		"vgreduce vg-ours " + devs[2],
		"lvremove -y vg-ours",
		"vgremove vg-ours",
		"pvremove " + strings.Join(devs, " "),
	} {
		out, talk, code := b.run(strings.Fields(step)...)
		if code != 0 {
			t.Fatalf("cowl %s: exit code %d\n%s%s", step, code, out, talk)
		}
		b.judge(step)
	}
}

// judge compares what lvm and cowl show, if there is anything.
func (b *bench) judge(step string) {
	b.t.Helper()
	if strings.HasPrefix(step, "pvremove") {
		if out := b.lvmSays([]string{"pvs", "--noheadings"}); out != "" {
			b.t.Errorf("after %s lvm still sees %s", step, out)
		}
		return
	}
	failed := b.t.Failed()
	b.same(nil, "pvs", "-o", "pv_all", "--units", "s")
	if !strings.HasPrefix(step, "pv") && !strings.HasPrefix(step, "vgremove") {
		b.lvm.Run("vgck", "vg-ours")
		b.same(nil, "vgs", "-o", "vg_all", "--units", "s")
	}
	if out := b.lvmSays([]string{"lvs", "--noheadings"}); out != "" {
		b.same(unknownToLVM, "lvs", "-a", "-o", "all", "--reportformat", "json")
		b.same(nil, "pvs", "--segments", "-v")
	}
	if b.t.Failed() && !failed {
		b.t.Errorf("that was after: cowl %s", step)
	}
}
