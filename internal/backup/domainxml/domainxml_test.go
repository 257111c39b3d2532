package domainxml

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"cowl/internal/errs"
)

var images = map[string]Image{
	"/dev/vg/web":             {"/backups/vg-web.qcow2", "qcow2"},
	"/dev/mapper/vg-web--log": {"/backups/it's <here> & \"there\".qcow2", "qcow2"},
	"/run/cowl/vg/data":       {"/backups/vg-data.qcow2", "qcow2"},
}

func find(path string) (Image, bool) {
	i, ok := images[path]
	return i, ok
}

// What virsh dumpxml prints, with all that a domain can have around its disks.
const web = `<?xml version="1.0" encoding="UTF-8"?>
<!-- made by hand: <source dev='/dev/vg/web'/> stays here -->
<domain type='kvm' id='3' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web</name>
  <uuid>0d5bf3c5-3b8f-4b4e-9f2a-6d3a3a1f3c11</uuid>
  <memory   unit='KiB'>2097152</memory>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>
    <nvram>/var/lib/libvirt/qemu/nvram/web_VARS.fd</nvram>
  </os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw' cache='none' io='native' discard='unmap'/>
      <source dev='/dev/vg/web' index='1'/>
      <backingStore/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk device="disk"   type = "block">
      <target dev="vdb"/>
      <source
          dev = "/dev/mapper/vg-web--log" ><seclabel model='dac' relabel='no'/></source>
    </disk>
    <disk type='file'><driver name='qemu'/><source file='/run/cowl/vg/data'/><target dev='vdc'/></disk>
    <disk type='block' device='disk'>
      <source dev='/dev/vg/other'/>
      <target dev='vdd'/>
    </disk>
    <disk type='network' device='disk'>
      <source protocol='rbd' name='pool/image'><host name='mon1' port='6789'/></source>
      <target dev='vde'/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='sda'/>
      <readonly/>
    </disk>
    <filesystem type='mount'><source dir='/srv/share'/><target dir='share'/></filesystem>
  </devices>
  <qemu:commandline>
    <qemu:arg value='file=/dev/vg/web,if=none'/>
  </qemu:commandline>
</domain>
`

func TestRewrite(t *testing.T) {
	r, err := Rewrite([]byte(web), find)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer(
		"<disk type='block' device='disk'>\n      <driver name='qemu' type='raw' cache", "<disk type='file' device='disk'>\n      <driver name='qemu' type='qcow2' cache",
		"<source dev='/dev/vg/web' index", "<source file='/backups/vg-web.qcow2' index",
		`type = "block"`, `type = "file"`,
		"<source\n          dev = \"/dev/mapper/vg-web--log\"", "<driver name='qemu' type='qcow2'/><source\n          file = \"/backups/it&apos;s &lt;here&gt; &amp; &quot;there&quot;.qcow2\"",
		"<driver name='qemu'/><source file='/run/cowl/vg/data'/>", "<driver type='qcow2' name='qemu'/><source file='/backups/vg-data.qcow2'/>",
	).Replace(web)
	// Outside of these, not a byte: comments, spaces, quotes.
	want = strings.Replace(want, "made by hand: <source file='/backups/vg-web.qcow2'/>", "made by hand: <source dev='/dev/vg/web'/>", 1)
	if string(r.Text) != want {
		t.Errorf("got:\n%s\nwant:\n%s", r.Text, want)
	}
	if len(r.Changes) != 3 || r.Changes[1].Disk != "vdb" || r.Changes[1].To != images["/dev/mapper/vg-web--log"].Path {
		t.Errorf("changes %+v", r.Changes)
	}
	for _, part := range []string{"web_VARS.fd (nvram)", "disk vdd is /dev/vg/other", "disk vde is of type network (pool/image)", "/srv/share", "names /dev/vg/web in value"} {
		if !slices.ContainsFunc(r.Left, func(l string) bool { return strings.Contains(l, part) }) {
			t.Errorf("nothing is said of %q: %q", part, r.Left)
		}
	}
	if len(r.Left) != 5 {
		t.Errorf("%d things are left: %q", len(r.Left), r.Left)
	}
	again, err := Rewrite(r.Text, find)
	if err != nil || !bytes.Equal(again.Text, r.Text) || len(again.Changes) > 0 {
		t.Errorf("rewritten twice: %v", err)
	}
}

// Disks whose bytes would not mean the same from an image are left as they are.
func TestLeft(t *testing.T) {
	for what, text := range map[string]string{
		"lun":        "<disk type='block' device='lun'><source dev='/dev/vg/web'/><target dev='sda'/></disk>",
		"encryption": "<disk type='block'><source dev='/dev/vg/web'><encryption format='luks'/></source><target dev='sda'/></disk>",
		"slices":     "<disk type='block'><source dev='/dev/vg/web'><slices><slice type='storage' offset='1' size='2'/></slices></source></disk>",
		"type qcow2": "<disk type='block'><driver type='qcow2'/><source dev='/dev/vg/web'/></disk>",
		"volume":     "<disk type='volume'><source pool='p' volume='/dev/vg/web'/></disk>",
		"elsewhere":  "<controller><source dev='/dev/vg/web'/></controller>",
		"another's":  "<x:disk xmlns:x='y' type='block'><x:source dev='/dev/vg/web'/></x:disk>",
	} {
		text = "<domain><devices>" + text + "</devices></domain>"
		r, err := Rewrite([]byte(text), find)
		if err != nil || string(r.Text) != text || len(r.Changes) > 0 || len(r.Left) == 0 {
			t.Errorf("%s: %v, %+v", what, err, r)
		}
	}
}

func TestRefused(t *testing.T) {
	for what, text := range map[string]string{
		"nothing":        "",
		"no XML":         "web: {disk: vda}",
		"another thing":  "<network><name>x</name></network>",
		"snapshot":       "<domainsnapshot><domain/></domainsnapshot>",
		"two domains":    "<domain/><domain/>",
		"not closed":     "<domain><devices>",
		"wrongly closed": "<domain><devices></domain></devices>",
		"document type":  "<!DOCTYPE domain [<!ENTITY a 'b'>]><domain>&a;</domain>",
		"entity":         "<domain><name>&lol;</name></domain>",
		"UTF-16":         "<?xml version='1.0' encoding='UTF-16'?><domain/>",
		"bad UTF-8":      "<domain><name>\xff</name></domain>",
		"twice":          "<domain><devices><disk type='block'><source dev='/dev/vg/web' dev='/dev/sda'/></disk></devices></domain>",
		"two sources":    "<domain><devices><disk type='block'><source dev='/dev/vg/web'/><source dev='/dev/sda'/></disk></devices></domain>",
		"too deep":       "<domain>" + strings.Repeat("<a>", 2000) + strings.Repeat("</a>", 2000) + "</domain>",
		"too long":       "<domain>" + strings.Repeat(" ", MaxSize) + "</domain>",
		"text before":    "web <domain/>",
	} {
		if r, err := Rewrite([]byte(text), find); !errs.Is(err, errs.Usage) {
			t.Errorf("%s: %v, %v", what, r, err)
		}
	}
}

// Whatever comes in: an error, or a domain of which only what was found is other.
func FuzzRewrite(f *testing.F) {
	f.Add([]byte(web))
	f.Add([]byte("<domain><devices><disk type='block'><source dev='/dev/vg/web'/></disk></devices></domain>"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := Rewrite(text, find)
		if err != nil {
			if r != nil {
				t.Fatal("a result with an error")
			}
			return
		}
		if len(r.Changes) == 0 && !bytes.Equal(r.Text, text) {
			t.Fatal("nothing was changed, and the text is another")
		}
		for _, c := range r.Changes {
			if !bytes.Contains(r.Text, []byte(escape(c.To))) {
				t.Fatalf("%s is not in the text", c.To)
			}
		}
		if _, err := Rewrite(r.Text, find); err != nil {
			t.Fatal(err)
		}
	})
}
