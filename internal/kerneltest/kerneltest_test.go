package kerneltest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// image makes a raw image file of zeroes.
func image(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk,0.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// The harness is the judge of everything else: a kernel without the snapshot
// target, a script whose failure is lost, or images that are not what the
// test gave would judge wrongly and say nothing.
func TestMachine(t *testing.T) {
	img := image(t, 32<<20)
	vm := Boot(t, img)
	t.Logf("Linux %s", vm.Sh("uname -r; lvm version"))

	if out := vm.Sh(`dmsetup targets`); !strings.Contains(out, "snapshot-merge") {
		t.Errorf("the kernel has no snapshot-merge target:\n%s", out)
	}
	if out := vm.Sh("echo one; echo two >&2; echo three"); out != "one\ntwo\nthree" {
		t.Errorf("output of a script is %q", out)
	}
	if out, status := vm.Try("echo said; exit 7"); out != "said\n" || status != 7 {
		t.Errorf("a script that exits with 7 printed %q and gave %d", out, status)
	}
	if _, status := vm.Try("set -e; false; exit 0"); status != 1 {
		t.Errorf("a failing command gave status %d", status)
	}

	// What is written to the disk is in the image, and it is the disk that is written.
	data := bytes.Repeat([]byte("cowl"), 1024)
	vm.Write(Write{Path: "/dev/vda", Off: 1<<20 + 512, Data: data})
	if got := vm.Read("/dev/vda", 1<<20+512, int64(len(data))); !bytes.Equal(got, data) {
		t.Error("a disk reads other than it was written")
	}
	if err := vm.TryWrite(Write{Path: "/dev/vda", Off: 32 << 20, Data: data}); err == nil {
		t.Error("a write past the disk's end succeeds")
	}
	vm.Sh(`pvcreate -q /dev/vda; vgcreate -q vg0 /dev/vda; lvcreate -q -n v -L 8m vg0; mkfs.ext4 -q /dev/vg0/v
		mount /dev/vg0/v /mnt; echo here > /mnt/file; umount /mnt; vgchange -q -an vg0`)
	vm.Off()

	text, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text[:1<<20], []byte("LABELONE")) || !bytes.Contains(text, []byte("here\n")) {
		t.Error("the image does not hold the PV label and the file's content")
	}

	// The next machine finds it all.
	out, status := Run(t, "vgchange -qq -ay vg0 >/dev/null && mount /dev/vg0/v /mnt && cat /mnt/file", img)
	if status != 0 || out != "here\n" {
		t.Errorf("after a reboot: status %d, output %q", status, out)
	}
}

// A kernel that remembers what a lent disk held would compare with itself.
func TestRelease(t *testing.T) {
	img := image(t, 1<<20)
	vm := Boot(t, img)
	vm.Write(Write{Path: "/dev/vda", Data: []byte("old")})
	vm.Sh("cat /dev/vda > /dev/null; dmsetup create d --table '0 8 linear /dev/vda 0'")
	if err := vm.call(callTime, "Release", []string{"/dev/vda"}, &struct{}{}); err == nil {
		t.Error("a disk below a device-mapper table is released")
	}
	vm.Sh("dmsetup remove d")
	vm.Release("/dev/vda")
	if text, err := os.ReadFile(img); err != nil || string(text[:3]) != "old" {
		t.Errorf("the released image holds %q, %v", text[:3], err)
	}
	if err := os.WriteFile(img, append([]byte("new"), make([]byte, 1<<20-3)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := vm.Sh("head -c 3 /dev/vda"); got != "new" {
		t.Errorf("the machine reads %q from a disk that was changed", got)
	}
}

// A power cut loses what the guest's kernel had not written and keeps what it
// had: otherwise mid-merge hand-overs would prove nothing.
func TestCut(t *testing.T) {
	img := image(t, 1<<20)
	vm := Boot(t, img)
	vm.Write(Write{Path: "/dev/vda", Data: []byte("durable")})
	vm.Sh("exec 3<> /dev/vda; printf volatil >&3; cat /dev/vda | head -c 7; sleep 1000 <&3 >/dev/null 2>&1 &")
	vm.Cut()

	text, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(text[:7]); got != "durable" {
		t.Errorf("after the cut the disk holds %q", got)
	}
}
