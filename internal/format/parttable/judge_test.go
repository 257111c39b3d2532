package parttable_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cowl/internal/errs"
	"cowl/internal/format/parttable"
	"cowl/internal/judge"
	"cowl/internal/kerneltest"
)

// layouts are what people partition, as sfdisk takes it.
var layouts = map[string]string{
	"one LVM partition":     "label: dos\n,,8e\n",
	"primary and logical":   "label: dos\n,8M,83\n,8M,8e\n,,05\n,4M,8e\n,4M,82\n,,8e\n",
	"extended in slot 2":    "label: dos\n1: size=8M, type=83\n2: size=24M, type=f\n5: size=4M, type=8e\n6: size=8M, type=83\n4: size=4M, type=8e\n",
	"empty DOS":             "label: dos\n",
	"empty extended":        "label: dos\n,8M,8e\n,,05\n",
	"GPT":                   "label: gpt\n,8M,L\n,8M,V\n,,V\n",
	"GPT with gaps":         "label: gpt\n2: size=8M, type=V\n9: size=4M, type=L\n128: size=4M, type=V\n",
	"GPT with many entries": "label: gpt\ntable-length: 400\n200: size=8M, type=V\n",
	"empty GPT":             "label: gpt\n",
}

func sfdisk(t *testing.T, script string) string {
	t.Helper()
	judge.Need(t, "sfdisk")
	path := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(f.Truncate(64<<20), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	runSfdisk(t, path, script)
	return path
}

func runSfdisk(t *testing.T, path, script string) {
	t.Helper()
	cmd := exec.Command(judge.Find("sfdisk"), "--no-reread", "--no-tell-kernel", "--quiet", path)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v: %s", err, out)
	}
}

func read(t *testing.T, path string) ([]parttable.Partition, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		t.Fatal(err)
	}
	return parttable.Read(f, size)
}

// list is what sfdisk sees, without containers, in our notation.
func list(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command(judge.Find("sfdisk"), "--json", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var dump struct {
		PartitionTable struct {
			SectorSize int64
			Partitions []struct {
				Node, Type  string
				Start, Size int64
			}
		}
	}
	if err := json.Unmarshal(out, &dump); err != nil {
		t.Fatal(err)
	}
	table := dump.PartitionTable
	if table.SectorSize == 0 {
		t.Fatalf("sfdisk --json: no sector size in %s", out)
	}
	var s []string
	for _, p := range table.Partitions {
		number := strings.TrimPrefix(strings.TrimPrefix(p.Node, path), "p")
		kind := strings.ToLower(p.Type)
		if len(kind) < 2 {
			kind = "0" + kind
		}
		if kind == "05" || kind == "0f" {
			continue
		}
		s = append(s, fmt.Sprintf("%s:%d+%d/%s", number, p.Start*table.SectorSize/512, p.Size*table.SectorSize/512, kind))
	}
	return strings.Join(s, " ")
}

func TestAgainstSfdisk(t *testing.T) {
	for name, script := range layouts {
		t.Run(name, func(t *testing.T) {
			path := sfdisk(t, script)
			compareWithSfdisk(t, path, path)
		})
	}
}

// An MBR does not tell the size of its sectors, so this is GPT only. Sfdisk
// learns the size from a device.
func TestAgainstSfdiskInLargeSectors(t *testing.T) {
	judge.NeedLoop(t)
	for name, script := range layouts {
		if !strings.HasPrefix(script, "label: gpt") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			path := sfdisk(t, "label: dos\n")
			dev := attach(t, path)
			defer detach(t, dev)
			runSfdisk(t, dev, script)
			compareWithSfdisk(t, path, dev)
		})
	}
}

// compareWithSfdisk has us read the image, and sfdisk the path.
func compareWithSfdisk(t *testing.T, image, path string) {
	t.Helper()
	parts, err := read(t, image)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := show(parts), list(t, path); got != want {
		t.Errorf("we see     %s\nsfdisk has %s", got, want)
	}
}

func attach(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command(judge.Find("losetup"), "--find", "--show", "--sector-size", "4096", path).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func detach(t *testing.T, dev string) {
	t.Helper()
	if out, err := exec.Command(judge.Find("losetup"), "--detach", dev).CombinedOutput(); err != nil {
		t.Errorf("losetup --detach %s: %v: %s", dev, err, out)
	}
}

// The backup that sfdisk writes takes over where the first sectors are lost.
func TestSfdiskBackup(t *testing.T) {
	path := sfdisk(t, layouts["GPT with gaps"])
	want := list(t, path)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 33*512), 512); err != nil {
		t.Fatal(err)
	}
	parts, err := read(t, path)
	if got := show(parts); err != nil || got != want {
		t.Errorf("we see     %s, %v\nsfdisk had %s", got, err, want)
	}
	if _, err := f.WriteAt(make([]byte, 512), 64<<20-512); err != nil {
		t.Fatal(err)
	}
	if parts, err := read(t, path); !errs.Is(err, errs.Corrupt) {
		t.Errorf("without both headers: %s, %v", show(parts), err)
	}
}

// Linux is the judge of numbers and places, also of tables that no partitioning
// program would write.
func TestAgainstLinux(t *testing.T) {
	var names, images []string
	for name, script := range layouts {
		names, images = append(names, name), append(images, sfdisk(t, script))
	}
	for name, d := range map[string]disk{
		"chain":             chain(),
		"deleted first one": chain().entry(1000, 0, 0, 0, 0),
		"garbage":           chain().entry(1200, 2, 0x77, 5, 5000),
		"two extended ones": twoExtended(),
		"type 0":            newDisk(100).entry(0, 0, 0, 0, 100).entry(0, 1, 0xef, 4, 8),
	} {
		path := filepath.Join(t.TempDir(), "disk.img")
		if err := os.WriteFile(path, d, 0o600); err != nil {
			t.Fatal(err)
		}
		names, images = append(names, name), append(images, path)
	}
	// One line a partition: disk, number, start, size in sectors. The container
	// of the logical partitions has a size of 1 or 2, whatever is in the table.
	out := kerneltest.Boot(t, images...).Sh(`cd /sys/block; for p in vd*/vd*/partition; do
		[ -e $p ] || continue
		d=${p%/partition}
		echo ${d%/*} $(cat $p $d/start $d/size)
	done`)
	linux := make(map[string]string)
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) != 4 {
			t.Fatalf("the kernel says %q", line)
		}
		if f[3] != "1" && f[3] != "2" {
			linux[f[0]] += fmt.Sprintf(" %s:%s+%s", f[1], f[2], f[3])
		}
	}
	for i, path := range images {
		parts, err := read(t, path)
		if err != nil {
			t.Errorf("%s: %v", names[i], err)
		}
		var got string
		for _, p := range parts {
			got += fmt.Sprintf(" %d:%d+%d", p.Number, p.Start/512, p.Len/512)
		}
		if want := linux["vd"+string(rune('a'+i))]; !sameFields(got, want) {
			t.Errorf("%s: we see   %s\nLinux has %s", names[i], got, want)
		}
	}
}

// sameFields compares without regard to order.
func sameFields(a, b string) bool {
	x, y := strings.Fields(a), strings.Fields(b)
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y)
}
