package daemon

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"cowl/internal/block/blocktest"
	"cowl/internal/judge"
	"cowl/internal/volume"
)

// fio writes all over a volume and checks every block, while snapshots of it
// come and go; qemu and libnbd read the same snapshot and must agree.
func TestJudgesUnderSnapshots(t *testing.T) {
	judge.Need(t, "fio", "qemu-img", "nbdcopy")
	m := newMachine(t)
	g := m.local(t)
	if _, err := g.CreateLV(bg, volume.LVSpec{Name: "a", Size: volume.Size{Bytes: 4 << 20}}); err != nil {
		t.Fatal(err)
	}
	g.Close()
	c, _ := m.serve(t)
	seconds := "2"
	if blocktest.Long() {
		seconds = "60"
	}
	uri := func(name string) string { return "nbd+unix:///" + name + "?socket=" + filepath.Join(m.run, "vg.nbd") }
	fio := exec.Command(judge.Find("fio"), "--name=judge", "--ioengine=nbd", "--uri="+uri("a"), "--size=4m", "--rw=randwrite", "--bs=4k",
		"--iodepth=16", "--fsync=64", "--time_based", "--runtime="+seconds, "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0",
		"--verify_backlog=256", "--output-format=terse")
	var out bytes.Buffer
	fio.Stdout, fio.Stderr = &out, &out
	if err := fio.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- fio.Wait() }()
	snapshots := 0
	for done := false; !done; snapshots++ {
		if _, err := c.CreateSnapshots(bg, []volume.SnapshotSpec{{Origin: "a", Name: "s", Size: volume.Size{Percent: 100, Of: volume.OfOrigin}}}); err != nil {
			t.Fatal(err)
		}
		if snapshots == 0 {
			agree(t, uri("s"))
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("fio: %v\n%s", err, out.String())
			}
			done = true
		case <-time.After(20 * time.Millisecond): // for writes to come between
		}
		if _, err := c.RemoveLVs(bg, []string{"s"}); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d snapshots under fio", snapshots)
	if snapshots < 5 {
		t.Error("hardly any snapshot was taken under load")
	}
}

// agree has two programs copy a snapshot, and the second compare.
func agree(t *testing.T, uri string) {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "copy.img")
	for _, argv := range [][]string{
		{"nbdcopy", uri, copied},
		{"qemu-img", "compare", "-f", "raw", "-F", "raw", uri, copied},
	} {
		if out, err := exec.Command(judge.Find(argv[0]), argv[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", argv[0], err, out)
		}
	}
}
