//go:build linux

package nbd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cowl/internal/block/file"
	"cowl/internal/judge"
)

// TestSpeed measures this server against nbdkit's, on one file of 1 GiB, by
// turns, with COWL_LONG=1 and -v:
//
//	COWL_LONG=1 go test -v -run TestSpeed ./internal/export/nbd
//
// On a machine that does other things too only the ratios mean something, and
// the processor time that a request costs the server.
func TestSpeed(t *testing.T) {
	if os.Getenv("COWL_LONG") == "" {
		t.Skip("takes minutes; set COWL_LONG=1")
	}
	judge.Need(t, "fio", "nbdkit")
	image := filepath.Join(t.TempDir(), "image")
	dev, err := file.Create(image, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	for off := int64(0); off < dev.Size(); off += 1 << 20 {
		if _, err := dev.WriteAt(slices.Repeat([]byte("cowl"), 1<<18), off); err != nil {
			t.Fatal(err)
		}
	}
	_, path := startServer(t, newShelf().with("vol", dev))
	socket := filepath.Join(t.TempDir(), "nbdkit")
	nbdkit := exec.Command(judge.Find("nbdkit"), "-f", "-U", socket, "file", image)
	if err := nbdkit.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { nbdkit.Process.Kill(); nbdkit.Wait() }()
	eventually(t, func() bool { return exec.Command(judge.Find("nbdinfo"), URI{"unix", socket, ""}.String()).Run() == nil })

	t.Logf("%-34s %21s %21s  %s", "medians of 5, by turns", "cowl req/s, cpu/req", "nbdkit req/s, cpu/req", "ratio")
	for _, how := range []string{
		"--rw=randread --bs=4k --iodepth=32",
		"--rw=randread --bs=4k --iodepth=1",
		"--rw=randwrite --bs=4k --iodepth=32",
		"--rw=randwrite --bs=4k --iodepth=1",
		"--rw=randrw --bs=4k --iodepth=32",
		"--rw=randread --bs=64k --iodepth=8",
		"--rw=read --bs=1m --iodepth=8",
		"--rw=write --bs=1m --iodepth=8",
		"--rw=randwrite --bs=4k --iodepth=32 --fsync=32",
	} {
		var ours, theirs, ratios []float64
		var ourCPU, theirCPU []float64
		for range 5 {
			a, ac := fioRate(t, URI{"unix", path, "vol"}, os.Getpid(), how)
			b, bc := fioRate(t, URI{"unix", socket, ""}, nbdkit.Process.Pid, how)
			ours, theirs, ratios = append(ours, a), append(theirs, b), append(ratios, a/b)
			ourCPU, theirCPU = append(ourCPU, ac), append(theirCPU, bc)
		}
		t.Logf("%-34s %9.0f %8.1f µs  %9.0f %8.1f µs  %.2f", strings.ReplaceAll(how, "--", ""),
			median(ours), median(ourCPU), median(theirs), median(theirCPU), median(ratios))
	}
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// fioRate runs fio for some seconds and returns requests a second, and the
// processor time in microseconds that each cost the server.
func fioRate(t *testing.T, uri URI, server int, how string) (rate, cpu float64) {
	t.Helper()
	args := append(strings.Fields(how), "--name=speed", "--ioengine=nbd", "--uri="+uri.String(),
		"--size=1g", "--time_based", "--runtime=2", "--output-format=terse", "--terse-version=3")
	before := cpuTime(t, server)
	start := time.Now()
	out := strings.Split(runTool(t, "fio", args...), ";")
	took := time.Since(start).Seconds()
	used := cpuTime(t, server) - before
	for _, i := range []int{7, 48} { // the fields of read and write IOPS
		n, err := strconv.ParseFloat(out[i], 64)
		if err != nil {
			t.Fatal(fmt.Errorf("fio's field %d: %w", i, err))
		}
		rate += n
	}
	return rate, float64(used.Microseconds()) / (rate * min(took, 2))
}

// cpuTime is what a process has used.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	if pid == os.Getpid() {
		var r syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
			t.Fatal(err)
		}
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')'):]))
	user, _ := strconv.Atoi(f[12])
	system, _ := strconv.Atoi(f[13])
	return time.Duration(user+system) * 10 * time.Millisecond
}
