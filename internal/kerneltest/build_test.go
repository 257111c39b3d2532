package kerneltest

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"cowl/internal/judge"
)

// The kernel panics at boot over a misaligned or unparented entry.
func TestCpio(t *testing.T) {
	var b bytes.Buffer
	c := newCpio(&b)
	c.file("a/b", 0o755, []byte("xyz"))
	c.file("/a/b", 0o755, []byte("ignored"))
	c.symlink("a/l", "b")
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	want := "070701" + "00000001" + "000041ed" + "00000000" + "00000000" + "00000001" + "00000000" + "00000000" +
		"00000000" + "00000000" + "00000000" + "00000000" + "00000002" + "00000000" + "a\x00" +
		"070701" + "00000002" + "000081ed" + "00000000" + "00000000" + "00000001" + "00000000" + "00000003" +
		"00000000" + "00000000" + "00000000" + "00000000" + "00000004" + "00000000" + "a/b\x00\x00\x00" + "xyz\x00" +
		"070701" + "00000003" + "0000a1ff" + "00000000" + "00000000" + "00000001" + "00000000" + "00000001" +
		"00000000" + "00000000" + "00000000" + "00000000" + "00000004" + "00000000" + "a/l\x00\x00\x00" + "b\x00\x00\x00" +
		"070701" + "00000000" + "00000000" + "00000000" + "00000000" + "00000001" + "00000000" + "00000000" +
		"00000000" + "00000000" + "00000000" + "00000000" + "0000000b" + "00000000" + "TRAILER!!!\x00\x00\x00\x00"
	if b.String() != want {
		t.Errorf("archive is\n%q\nwant\n%q", b.String(), want)
	}
}

// dm-snapshot is asked for by its package name, depended on by its modinfo
// name, and may be built into another kernel.
func TestModuleNames(t *testing.T) {
	if got := moduleName("./lib/modules/6.1/kernel/drivers/md/dm-mod.ko"); got != "dm_mod" {
		t.Errorf("moduleName gives %q", got)
	}
	order, err := moduleOrder(map[string][]byte{}, []string{"built-in"})
	if err != nil || len(order) != 0 {
		t.Errorf("a built-in module gives %v, %v", order, err)
	}
	if _, err := moduleOrder(map[string][]byte{"dm_mod": []byte("no ELF")}, []string{"dm-mod"}); err == nil {
		t.Error("a module that is no ELF file is accepted")
	}
}

// A program without one of its libraries fails in the machine, long after the
// cause.
func TestLibraries(t *testing.T) {
	judge.Need(t, "lvm")
	libs, err := libraries(judge.Find("lvm"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"libc.so.6", "libdevmapper.so", "ld-linux"} {
		if !slices.ContainsFunc(libs, func(l string) bool { return strings.Contains(l, want) }) {
			t.Errorf("lvm needs no %s? only %v", want, libs)
		}
	}
}
