package vgtext

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cowl/internal/format/mda"
	"cowl/internal/lvmtest"
)

var update = flag.Bool("update", false, "write what lvm2 wrote to testdata")

// lvm2 restores each source and writes it to disk and to a backup file; both
// must be what Encode and EncodeBackup make of the group that was read back.
// With -update they become goldens. By default a few sources stand for all of
// them; COWL_LONG=1 takes every one.
func TestLVMWritesTheSame(t *testing.T) {
	l := lvmtest.New(t)
	devs, images := l.Create(256<<20, 256<<20, 256<<20)
	sources, err := filepath.Abs("testdata/source")
	if err != nil {
		t.Fatal(err)
	}
	testdata := filepath.Dir(sources)
	names := []string{"plain", "snaps", "trimmings", "cache"}
	if *update || os.Getenv("COWL_LONG") != "" {
		names = slices.Collect(maps.Keys(goldens(t, "source")))
	}
	t.Chdir(l.Dir) // the command line, file name included, becomes the description
	for _, name := range names {
		for i, dev := range devs {
			wipe(t, images[i])
			l.Run("pvcreate", "--uuid", fmt.Sprintf("aaaaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaa%d", i), "--norestorefile", dev)
		}
		copyFile(t, filepath.Join(sources, name+".vg"), name+".vg")
		var host []string
		if name == "trimmings" {
			host = []string{"--config", `global/system_id_source="lvmlocal" local/system_id="elsewhere"`}
		}
		l.Run(append([]string{"vgcfgrestore", "--force", "-f", name + ".vg", name}, host...)...)
		disk := committed(t, images[0])
		var backup []byte
		if name != "sanlock" { // for which lvm2 wants a lock first
			l.Run(append([]string{"vgcfgbackup", "-f", name + ".backup", name}, host...)...)
			backup = readFile(t, name+".backup")
		}
		compare(t, testdata, name, disk, backup)
	}
}

// The same for a group that commands made and changed.
func TestLVMCommandsWriteTheSame(t *testing.T) {
	l := lvmtest.New(t)
	devs, images := l.Create(64<<20, 64<<20, 64<<20)
	testdata, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(l.Dir)
	conf := readFile(t, "lvm.conf")
	withIDs := []string{"--config", `devices/use_devicesfile=1 devices/filter=["a|.*|"] devices/global_filter=["a|.*|"]`}
	run := func(args ...string) { t.Helper(); l.Run(append(args, withIDs...)...) }

	run("pvcreate", "--bootloaderareasize", "1m", "--dataalignment", "512k", devs[0], devs[1], devs[2])
	run("vgcreate", "--addtag", "a", "--addtag", "b", "-s", "1m", "devices", devs[0], devs[1], devs[2])
	run("lvcreate", "-an", "-Zn", "-Wn", "-L", "4m", "--addtag", "x", "-n", "l", "devices")
	run("lvcreate", "-an", "-Zn", "-Wn", "-l", "6", "-i", "3", "-I", "64k", "-n", "wide", "devices")
	run("lvextend", "-l", "+3", "devices/l", devs[2])
	run("lvchange", "-r", "none", "devices/l")
	run("lvchange", "-My", "--minor", "7", "devices/l")
	run("lvchange", "-pr", "devices/wide")
	run("vgchange", "--alloc", "anywhere", "devices")
	run("pvchange", "--addtag", "pvt", devs[0])
	run("pvchange", "-xn", devs[1])
	run("lvrename", "devices", "wide", "wider")
	run("vgcfgbackup", "-f", "devices.backup", "devices")
	if !bytes.Equal(conf, readFile(t, "lvm.conf")) {
		t.Fatal("lvm.conf changed")
	}
	compare(t, testdata, "devices", committed(t, images[0]), readFile(t, "devices.backup"))
}

func compare(t *testing.T, testdata, name string, disk, backup []byte) {
	t.Helper()
	vg, err := Decode(disk)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if got := Encode(vg); !bytes.Equal(got, disk) {
		t.Errorf("%s: on disk: %s", name, firstDifference(got, disk))
	}
	if backup != nil {
		checkBackup(t, name, vg, backup)
	}
	if *update {
		save(t, filepath.Join(testdata, "disk", name+".vg"), disk)
		if backup != nil {
			save(t, filepath.Join(testdata, "backup", name+".vg"), backup)
		}
	}
}

// committed reads the text of an image's first metadata area.
func committed(t *testing.T, image string) []byte {
	t.Helper()
	b := readFile(t, image)
	h, err := mda.Decode(b[4096:4096+mda.HeaderSize], 4096)
	if err != nil {
		t.Fatal(err)
	}
	at := h.Slots[mda.Committed]
	var text []byte
	for _, s := range mda.Spans(h.Size, at.Offset, at.Length) {
		text = append(text, b[4096+s.Off:4096+s.End()]...)
	}
	return bytes.TrimRight(text, "\x00")
}

// wipe makes an image forget its PV: label, metadata and what LVM2 may find of
// an older header.
func wipe(t *testing.T, image string) {
	t.Helper()
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.Write(make([]byte, 1<<20))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// save writes a golden without what is the machine's own: kernel, host name
// and paths.
func save(t *testing.T, path string, text []byte) {
	t.Helper()
	vg, err := Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	s := string(text)
	s = strings.ReplaceAll(s, vg.HostNote, "Linux host 6.1.0 #1 SMP x86_64")
	s = strings.ReplaceAll(s, `creation_host = "`+vg.CreationHost+`"`, `creation_host = "host"`)
	for _, pv := range vg.PVs {
		if pv.DeviceID != "" {
			s = strings.ReplaceAll(s, pv.DeviceID, "/images/"+filepath.Base(pv.DeviceID))
		}
	}
	if err := os.WriteFile(path, []byte(s), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	if err := os.WriteFile(to, readFile(t, from), 0o600); err != nil {
		t.Fatal(err)
	}
}
