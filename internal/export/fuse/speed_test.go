//go:build linux

package fuse

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cowl/internal/block/file"
	"cowl/internal/judge"
)

// TestSpeed measures a file of 1 GiB shown through FUSE, and a loop device over
// that, against the same file and a loop device over it, by turns:
//
//	COWL_LONG=1 go test -v -run TestSpeed ./internal/export/fuse
//
// On a machine that does other things too only the ratios mean something.
func TestSpeed(t *testing.T) {
	if os.Getenv("COWL_LONG") == "" {
		t.Skip("takes minutes; set COWL_LONG=1")
	}
	judge.Need(t, "fio")
	judge.NeedLoop(t)
	image := filepath.Join(t.TempDir(), "image")
	dev, err := file.Create(image, 1<<30)
	check(t, err)
	defer dev.Close()
	for off := int64(0); off < dev.Size(); off += 1 << 20 {
		_, err := dev.WriteAt(slices.Repeat([]byte("cowl"), 1<<18), off)
		check(t, err)
	}
	check(t, dev.Flush())
	_, dir := serve(t, newShelf().with("vol", dev))
	shown := filepath.Join(dir, "vol")
	overShown, overImage := loop(t, shown), loop(t, image)

	t.Logf("%-44s %10s %10s  %s", "medians of 5, by turns", "through", "without", "ratio")
	for _, how := range []string{
		"--rw=randread --bs=4k --iodepth=16 --direct=1",
		"--rw=randwrite --bs=4k --iodepth=16 --direct=1",
		"--rw=read --bs=1m --iodepth=4 --direct=1",
		"--rw=write --bs=1m --iodepth=4 --direct=1",
	} {
		for name, paths := range map[string][2]string{"file": {shown, image}, "loop": {overShown, overImage}} {
			var through, without, ratios []float64
			for range 5 {
				a, b := fioRate(t, paths[0], how), fioRate(t, paths[1], how)
				through, without, ratios = append(through, a), append(without, b), append(ratios, a/b)
			}
			t.Logf("%s %-39s %10.0f %10.0f  %.2f", name, strings.ReplaceAll(how, "--", ""), median(through), median(without), median(ratios))
		}
	}
}

// loop attaches a loop device with direct I/O until the test ends.
func loop(t *testing.T, path string) string {
	t.Helper()
	dev := strings.TrimSpace(run(t, "losetup", "--find", "--show", "--direct-io=on", path))
	t.Cleanup(func() { run(t, "losetup", "--detach", dev) })
	return dev
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// fioRate runs fio for some seconds and returns requests a second.
func fioRate(t *testing.T, path, how string) (rate float64) {
	t.Helper()
	args := append(strings.Fields(how), "--name=speed", "--ioengine=libaio", "--filename="+path,
		"--size=1g", "--time_based", "--runtime=2", "--output-format=terse", "--terse-version=3")
	out := strings.Split(run(t, "fio", args...), ";")
	for _, i := range []int{7, 48} { // the fields of read and write IOPS
		n, err := strconv.ParseFloat(out[i], 64)
		check(t, err)
		rate += n
	}
	return rate
}
