package cli

import (
	"strings"
	"testing"

	"cowl/internal/lvmtest"
)

// TestExtendSpeaksAsLVM gives lvm and cowl the same lvextend on the same group,
// in test mode: both must say the same, on the same channel, and end alike. That
// the extents are lvm's too is TestAllocationIsLVMs of package volume.
func TestExtendSpeaksAsLVM(t *testing.T) {
	t.Parallel()
	l := lvmtest.New(t)
	const mib = 1 << 20
	devs, _ := l.Create(64*mib, 64*mib)
	b := &bench{t: t, lvm: l, devs: devs, dir: t.TempDir()}
	for _, cmd := range []string{
		"vgcreate -s 1m vg " + strings.Join(devs, " "), "lvcreate -L 20m -n root vg " + devs[0],
		"lvcreate -s -L 4m -n snap vg/root", "lvcreate -s -L 4m -c 64k -n large vg/root",
		"lvcreate -s -L 4m -n going vg/root", "lvconvert --merge -b vg/going",
	} {
		if out, talk, code := b.run(strings.Fields(cmd)...); code != 0 {
			t.Fatalf("cowl %s: %d\n%s%s", cmd, code, out, talk)
		}
	}
	for _, args := range []string{
		"-L +4m vg/root", "-L 30.5m vg/root", "-L +1k vg/root", "-L +5 /dev/vg/root", "-l 30 vg/root", "-l +30 /dev/mapper/vg-root",
		"-l +100%FREE vg/root", "-l 100%FREE vg/root", "-l +400%FREE vg/root", "-l +50%LV vg/root", "-l 60%VG vg/root", "-l +10%PVS vg/root",
		"-L +4m vg/root " + devs[1], "-l +50%PVS vg/root " + devs[1], "vg/root " + devs[1], "vg/root " + devs[1] + ":3-6",
		"-L +4m vg/snap", "-L 4m vg/snap", "-L 400m vg/snap", "-L +400m vg/large", "-l +100%ORIGIN vg/snap", "-l 100%ORIGIN vg/snap",
		"-l 50%ORIGIN vg/large", "-l +100%FREE vg/snap", "-l 21 vg/snap", "-l 22 vg/snap", "-L +4m vg/going", "-f -L +4m vg/root",
	} {
		args := append([]string{"lvextend", "-t"}, strings.Fields(args)...)
		wantOut, wantTalk, err := l.Try(args...)
		out, talk, code := b.run(args...)
		if (err == nil) != (code == 0) || out != wantOut || talk != wantTalk {
			t.Errorf("%s: %d\n%s%slvm: %v\n%s%s", strings.Join(args, " "), code, out, talk, err, wantOut, wantTalk)
		}
	}
}
