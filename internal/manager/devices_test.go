package manager

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"cowl/internal/errs"
	"cowl/internal/volume"
)

// lvmsDevices is a devices file as LVM2 2.03.16 and later write it.
const lvmsDevices = `# LVM uses devices listed in this file.
# Created by LVM command pvcreate pid 2000 at Sat Nov 21 01:00:00 2026
# HASH=1853213548
PRODUCT_UUID=8f8c1d7e-4c1e-4d3c-9b57-1d2e3f405060
VERSION=1.1.12
IDTYPE=sys_wwid IDNAME=naa.5000c500a1b2c3d4 DEVNAME=/dev/sda5 PVID=qK9gfrU00gFm75IB3W6IEr4424x2hQfE PART=5
IDTYPE=loop_file IDNAME=/srv/disk.img DEVNAME=/dev/loop77 PVID=.
IDTYPE=devname IDNAME=/dev/vdb DEVNAME=. PVID=fJWLloOIpaUBQUz7NKJ8b1ZjLnJPnDGZ
nonsense
IDTYPE=devname IDNAME=. DEVNAME=.
`

func TestLVMsDevicesFile(t *testing.T) {
	l, warnings := parseDevices("f", []byte(lvmsDevices))
	if len(warnings) != 1 || !strings.Contains(warnings[0], "f line 10") {
		t.Errorf("warnings: %v", warnings)
	}
	if l.changes != 12 {
		t.Errorf("VERSION counts %d changes", l.changes)
	}
	var names []string
	for _, e := range l.entries {
		names = append(names, e.name())
	}
	want := "[/dev/sda5#5 /srv/disk.img /dev/vdb]"
	if isPartition("/dev/sda5") {
		want = "[/dev/sda5 /srv/disk.img /dev/vdb]"
	}
	if got := fmt.Sprint(names); got != want {
		t.Errorf("names are %s, want %s", got, want)
	}
	if l.entries[0].id != "qK9gfrU00gFm75IB3W6IEr4424x2hQfE" || l.entries[1].id != "" {
		t.Errorf("ids are %q and %q", string(l.entries[0].id), string(l.entries[1].id))
	}
}

func TestDevicesFileRoundTrip(t *testing.T) {
	for _, name := range []string{"/a", "/with blank", "/tab\there", "/new\nline", `/back\slash`, `/oct\040al`, "/ümlaut", "/no\u00a0break", "/\x85", "/#", "/a#5"} {
		l := devicesList{changes: 3, entries: []entry{{idType: idFile, idName: name, devName: name, id: testPVID, part: 7, unknown: []string{"NEW=thing"}}}}
		back, warnings := parseDevices("f", l.format("a\nb"))
		if len(warnings) != 0 || len(back.entries) != 1 || fmt.Sprint(back) != fmt.Sprint(l) {
			t.Errorf("%q reads back as %v %v", name, back, warnings)
		}
	}
}

const testPVID volume.UUID = "qK9gfrU00gFm75IB3W6IEr4424x2hQfE"

func FuzzDevicesFile(f *testing.F) {
	f.Add([]byte(lvmsDevices))
	f.Add([]byte("IDTYPE=loop_file IDNAME=/a\\0 DEVNAME=\\040 PVID=x PART=99999"))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, _ := parseDevices("f", text)
		again, warnings := parseDevices("f", l.format(""))
		if len(warnings) != 0 || fmt.Sprint(again) != fmt.Sprint(l) {
			t.Errorf("%q gives %v, and that %v %v", text, l, again, warnings)
		}
	})
}

// Files come and go; those that are gone are one warning each, and nothing else.
func TestVanishedFile(t *testing.T) {
	r := newRig(t)
	a, b := r.image("a.img", 64*mib), r.image("b.img", 64*mib)
	r.group("vg", a)
	r.group("other", b)
	if err := os.Remove(b); err != nil {
		t.Fatal(err)
	}
	inv := r.scan()
	wantSummary(t, inv, "vg a.img")
	if len(inv.Warnings) != 1 || inv.Warnings[0] != "WARNING: devices lists "+b+", which is not there." {
		t.Errorf("warnings: %q", inv.Warnings)
	}
	r.close(r.open("vg"))
	if err := os.Chmod(a, 0); err == nil && os.Getuid() != 0 {
		inv := r.scan()
		if len(inv.Warnings) != 2 {
			t.Errorf("warnings: %q", inv.Warnings)
		}
	}
}

// --devices and COWL_DEVICES are all that there is, and write no file.
func TestOnlyTheseDevices(t *testing.T) {
	r := newRig(t)
	a, b := r.image("a.img", 64*mib), r.image("b.img", 64*mib)
	r.group("listed", a)
	before, err := os.ReadFile(filepath.Join(r.dir, "state/cowl/devices"))
	if err != nil || !strings.Contains(string(before), "IDTYPE=loop_file IDNAME="+a+" DEVNAME="+a+" PVID=") {
		t.Fatalf("%v\n%s", err, before)
	}
	r.env["COWL_DEVICES"] = b + "," + filepath.Join(r.dir, "nosuch")
	inv := r.scan()
	if len(inv.Warnings) != 1 || !strings.Contains(inv.Warnings[0], "No device found for ") {
		t.Errorf("warnings: %q", inv.Warnings)
	}
	if len(inv.Devices) != 1 || inv.Devices[0].Path != b {
		t.Errorf("devices: %+v", inv.Devices)
	}
	r.env["COWL_DEVICES"] = b
	r.group("vg", b)
	wantSummary(t, r.scan(), "vg b.img")
	_, err = r.host().CreatePVs(ctx, []string{a}, PVCreate{})
	wantErr(t, err, errs.Conflict, "device is not in devices list")
	if after, _ := os.ReadFile(filepath.Join(r.dir, "state/cowl/devices")); string(after) != string(before) {
		t.Errorf("the devices file changed to\n%s", after)
	}
	r.o.Devices = []string{a} // the option is stronger than the variable
	wantSummary(t, r.scan(), "listed a.img")

	// Relative paths and links are the same device, looked at once.
	t.Chdir(r.dir)
	if err := os.Symlink("a.img", "link"); err != nil {
		t.Fatal(err)
	}
	r.o.Devices = []string{"link", "a.img,./a.img", a}
	inv = r.scan()
	r.quiet(inv)
	wantSummary(t, inv, "listed link")
	r.close(r.open("listed"))
}

func TestNamedDevicesFile(t *testing.T) {
	r := newRig(t)
	a := r.image("a.img", 64*mib)
	r.env["COWL_DEVICES_FILE"] = filepath.Join(r.dir, "my.devices")
	_, err := r.host().Scan(ctx)
	wantErr(t, err, errs.NotFound, "Devices file not found: ")
	if _, err := r.host().CreatePVs(ctx, []string{a}, PVCreate{}); err != nil {
		t.Fatal(err)
	}
	wantSummary(t, r.scan(), "- a.img")
	r.o.DevicesFile = "other" // beside the default one
	if _, err := r.host().CreatePVs(ctx, []string{a}, PVCreate{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(r.dir, "state/cowl/other")); err != nil {
		t.Error(err)
	}
}

// Commands that run at the same time all find their devices in the list.
func TestDevicesFileHasManyWriters(t *testing.T) {
	r := newRig(t)
	r.o.Wait = 0 // seconds, as people have it
	var all sync.WaitGroup
	const n = 12
	for i := range n {
		path := r.image(fmt.Sprintf("%d.img", i), 4*mib)
		all.Go(func() {
			o := r.o
			o.Random = nil
			if _, err := NewHost(o).CreatePVs(ctx, []string{path}, PVCreate{}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	inv := r.scan()
	r.quiet(inv)
	if len(inv.Orphans) != n {
		t.Errorf("%d of %d PVs are listed", len(inv.Orphans), n)
	}
}

// As root, cowl's own list stands beside what the host's LVM looks at, which
// cowl never changes.
func TestRootsDevices(t *testing.T) {
	r := newRig(t)
	uid := 0
	r.o.UID, r.o.Root = &uid, filepath.Join(r.dir, "root")
	own := filepath.Join(r.o.Root, "etc/lvm/devices/cowl.devices")
	system := filepath.Join(r.o.Root, "etc/lvm/devices/system.devices")
	for _, dir := range []string{"etc/lvm/devices", "dev", "sys/class/block/sdx/holders", "sys/class/block/sdy/holders/md0", "sys/class/block/dm-0/dm", "sys/class/block/sr0"} {
		if err := os.MkdirAll(filepath.Join(r.o.Root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for file, text := range map[string]string{
		"sys/class/block/sdx/size": "131072\n", "sys/class/block/sdy/size": "131072\n", "sys/class/block/sr0/size": "0\n",
		"sys/class/block/dm-0/size": "131072\n", "sys/class/block/dm-0/dm/uuid": "LVM-abc\n",
	} {
		if err := os.WriteFile(filepath.Join(r.o.Root, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sdx := r.image("root/dev/sdx", 64*mib)
	file := r.image("file.img", 64*mib)

	names := func() string {
		list, _, err := r.host().candidates()
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, c := range list {
			out = append(out, filepath.Base(c.name))
		}
		return strings.Join(out, " ")
	}
	if got := names(); got != "sdx" {
		t.Errorf("without any list root looks at %q, want sdx: what is a component, a volume or empty is left out", got)
	}
	r.group("vg", file)
	if got := names(); got != "file.img sdx" {
		t.Errorf("with a list of cowl's own root looks at %q", got)
	}
	if _, err := os.Stat(own); err != nil {
		t.Error(err)
	}
	text := "VERSION=1.1.1\nIDTYPE=devname IDNAME=/dev/other DEVNAME=" + sdx + " PVID=.\n"
	if err := os.WriteFile(system, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r.group("vg2", sdx)
	if after, _ := os.ReadFile(system); string(after) != text {
		t.Errorf("system.devices was changed to %s", after)
	}
	inv := r.scan()
	r.quiet(inv)
	wantSummary(t, inv, "vg file.img", "vg2 sdx")
}
