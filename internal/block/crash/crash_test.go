package crash_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/crash"
)

const sector = block.SectorSize

func TestConformance(t *testing.T) {
	blocktest.Run(t, func(t *testing.T, size int64) block.Device {
		return crash.New(size)
	}, blocktest.Options{Zeroed: true})
}

// With a reboot in which everything survives a disk is still an ordinary one.
func TestConformanceAcrossReboots(t *testing.T) {
	blocktest.Run(t, func(t *testing.T, size int64) block.Device {
		return crash.New(size)
	}, blocktest.Options{Zeroed: true, Reopen: func(t *testing.T, d block.Device) block.Device {
		return d.(*crash.Disk).World().Reboot(crash.All)[0]
	}})
}

func sectors(values ...byte) []byte {
	var b []byte
	for _, v := range values {
		b = append(b, bytes.Repeat([]byte{v}, sector)...)
	}
	return b
}

func write(t *testing.T, d block.Device, off int64, values ...byte) {
	t.Helper()
	if _, err := d.WriteAt(sectors(values...), off*sector); err != nil {
		t.Fatal(err)
	}
}

func flush(t *testing.T, d block.Device) {
	t.Helper()
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
}

// first returns the first byte of each sector; no sector may be torn.
func first(t *testing.T, d block.Device) string {
	t.Helper()
	b := blocktest.ReadAll(t, d)
	var s strings.Builder
	for at := 0; at < len(b); at += sector {
		part := b[at:min(at+sector, len(b))]
		if len(bytes.TrimLeft(part, string(part[:1]))) > 0 {
			t.Fatalf("sector %d is torn", at/sector)
		}
		s.WriteByte(part[0] + '0')
	}
	return s.String()
}

// outcomes reboots many times and returns the contents of disk i that came up.
func outcomes(t *testing.T, w *crash.World, i int) map[string]bool {
	t.Helper()
	seen := make(map[string]bool)
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
	for _, disks := range w.Reboots(rng, 2000) {
		seen[first(t, disks[i])] = true
	}
	return seen
}

func wantOutcomes(t *testing.T, seen map[string]bool, want string) {
	t.Helper()
	for _, s := range strings.Fields(want) {
		if !seen[s] {
			t.Errorf("%s never came up", s)
		}
		delete(seen, s)
	}
	for s := range seen {
		t.Errorf("%s came up and cannot be", s)
	}
}

func TestWhatSurvives(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(t *testing.T, d *crash.Disk)
		want string
	}{
		"nothing was written": {func(*testing.T, *crash.Disk) {}, "0000"},
		"flushed": {func(t *testing.T, d *crash.Disk) {
			write(t, d, 0, 1, 2)
			flush(t, d)
		}, "1200"},
		"sectors of one write are on their own": {func(t *testing.T, d *crash.Disk) {
			write(t, d, 1, 1, 2)
		}, "0000 0100 0020 0120"},
		"any version of a sector": {func(t *testing.T, d *crash.Disk) {
			write(t, d, 0, 1)
			write(t, d, 0, 2)
			write(t, d, 0, 3)
		}, "0000 1000 2000 3000"},
		"the second write without the first": {func(t *testing.T, d *crash.Disk) {
			write(t, d, 0, 1)
			write(t, d, 3, 2)
		}, "0000 1000 0002 1002"},
		"flushed versions are gone": {func(t *testing.T, d *crash.Disk) {
			write(t, d, 0, 1)
			write(t, d, 0, 2)
			flush(t, d)
			write(t, d, 0, 3)
		}, "2000 3000"},
		"zeroes are a write": {func(t *testing.T, d *crash.Disk) {
			write(t, d, 0, 1, 1)
			flush(t, d)
			if err := d.WriteZeroes(0, 4*sector); err != nil {
				t.Fatal(err)
			}
		}, "0000 1000 0100 1100"},
		"discard may be lost": {func(t *testing.T, d *crash.Disk) {
			write(t, d, 0, 1, 1, 1, 1)
			flush(t, d)
			if err := d.Discard(0, 4*sector); err != nil {
				t.Fatal(err)
			}
			if got := first(t, d); got != "0101" {
				t.Errorf("after a discard reads %s, want 0101", got)
			}
		}, "1111 0111 1101 0101"},
		"flushed discard": {func(t *testing.T, d *crash.Disk) {
			write(t, d, 0, 1, 1, 1, 1)
			if err := d.Discard(1, 4*sector-1); err != nil {
				t.Fatal(err)
			}
			flush(t, d)
		}, "1101"},
		"failed flush": {func(t *testing.T, d *crash.Disk) {
			write(t, d, 0, 1)
			d.World().FailAt(2, errors.New("io"))
			if d.Flush() == nil {
				t.Error("Flush did not fail")
			}
		}, "0000 1000"},
		"failed write reaches half": {func(t *testing.T, d *crash.Disk) {
			d.World().FailAt(1, errors.New("io"))
			if _, err := d.WriteAt(sectors(1, 1, 1, 1), 0); err == nil {
				t.Error("WriteAt did not fail")
			}
			if got := first(t, d); got != "0101" {
				t.Errorf("after a failed write reads %s, want 0101", got)
			}
			flush(t, d)
		}, "0101"},
		"the write that the cut hits": {func(t *testing.T, d *crash.Disk) {
			d.World().CutAt(1)
			if _, err := d.WriteAt(sectors(1, 2), 0); !errors.Is(err, crash.ErrPowerCut) {
				t.Errorf("WriteAt at the cut: %v", err)
			}
		}, "0000 1000 0200 1200"},
		"the flush that the cut hits": {func(t *testing.T, d *crash.Disk) {
			write(t, d, 0, 1)
			d.World().CutAt(2)
			if err := d.Flush(); !errors.Is(err, crash.ErrPowerCut) {
				t.Errorf("Flush at the cut: %v", err)
			}
		}, "0000 1000"},
		"after the cut": {func(t *testing.T, d *crash.Disk) {
			d.World().CutAt(1)
			_ = d.Flush()
			if _, err := d.WriteAt(sectors(1), 0); !errors.Is(err, crash.ErrPowerCut) {
				t.Errorf("WriteAt after the cut: %v", err)
			}
		}, "0000"},
	} {
		t.Run(name, func(t *testing.T) {
			d := crash.New(4 * sector)
			c.do(t, d)
			wantOutcomes(t, outcomes(t, d.World(), 0), c.want)
		})
	}
}

// A part of a sector: the rest is as the version before had it.
func TestPartialSectors(t *testing.T) {
	d := crash.New(sector + 10)
	write(t, d, 0, 1)
	for _, off := range []int64{10, sector - 5, sector + 8} {
		n := min(10, d.Size()-off)
		if _, err := d.WriteAt(bytes.Repeat([]byte{7}, int(n)), off); err != nil {
			t.Fatal(err)
		}
	}
	want := sectors(1)
	copy(want[10:], bytes.Repeat([]byte{7}, 10))
	got := blocktest.ReadAll(t, d.World().Reboot(crash.Only(2))[0])
	if !bytes.Equal(got[:sector], want) || !bytes.Equal(got[sector:], make([]byte, 10)) {
		t.Errorf("only operation 2: %x", got)
	}
	got = blocktest.ReadAll(t, d.World().Reboot(crash.Without(3))[0])
	if !bytes.Equal(got[:sector], want) {
		t.Errorf("without operation 3, sector 0: %x", got[:sector])
	}
	if tail := append(bytes.Repeat([]byte{7}, 5), 0, 0, 0, 7, 7); !bytes.Equal(got[sector:], tail) {
		t.Errorf("without operation 3, the last sector, which operation 4 wrote last: %x, want %x", got[sector:], tail)
	}
}

// A flush of one disk is none of another; both count operations together.
func TestDisksAreApart(t *testing.T) {
	w := crash.NewWorld()
	a, b := w.NewDisk("a", sector), w.NewDisk("b", sector)
	write(t, a, 0, 1)
	write(t, b, 0, 2)
	flush(t, a)
	if w.Ops() != 3 {
		t.Errorf("%d operations, want 3", w.Ops())
	}
	wantOutcomes(t, outcomes(t, w, 0), "1")
	wantOutcomes(t, outcomes(t, w, 1), "0 2")
	w.CutAt(4)
	_ = b.Flush()
	if _, err := a.ReadAt(make([]byte, 1), 0); !errors.Is(err, crash.ErrPowerCut) || !w.Down() {
		t.Errorf("disk a after a cut at disk b: %v", err)
	}
}

func TestNumbersAndNames(t *testing.T) {
	w := crash.NewWorld()
	d := w.NewDisk("pv0", 1<<20)
	write(t, d, 8, 1)
	_, _ = d.WriteAt(nil, 0)        // no bytes: not an operation
	_ = d.Discard(1<<20, 512)       // out of range: neither
	_, _ = d.ReadAt(sectors(0), 0)  // a read: neither
	_ = d.WriteZeroes(4096, 1024)   // 2
	_ = d.Discard(0, 512)           // 3
	flush(t, d)                     // 4
	w.CutAt(5)                      //
	_ = d.Flush()                   // 5
	_, _ = d.WriteAt(sectors(0), 0) // after the cut: not counted
	for n, want := range []string{
		"0: none", "1: write pv0 4096+512", "2: zero pv0 4096+1024", "3: discard pv0 0+512",
		"4: flush pv0", "5: flush pv0", "6: none",
	} {
		if got := w.Op(int64(n)); got != want {
			t.Errorf("Op(%d) = %q, want %q", n, got, want)
		}
	}
}

// Recovery is cut, too: the rebooted world lives on its own, and the first one
// does not notice.
func TestDoubleCrash(t *testing.T) {
	d := crash.New(4 * sector)
	write(t, d, 0, 1)
	d.World().CutAt(2)
	_ = d.Flush()

	again := d.World().Reboot(crash.All)[0]
	if again.World().Down() || again.World().Ops() != 0 {
		t.Fatal("the world after the reboot is not a fresh one")
	}
	write(t, again, 1, 2)
	flush(t, again)
	write(t, again, 2, 3)
	again.World().CutAt(4)
	_ = again.Flush()
	wantOutcomes(t, outcomes(t, again.World(), 0), "1200 1230")
	wantOutcomes(t, outcomes(t, d.World(), 0), "0000 1000")
}

// The same seed gives the same choices.
func TestReplay(t *testing.T) {
	d := crash.New(64 * sector)
	for i := range int64(64) {
		write(t, d, i, 1)
		write(t, d, i, 2)
	}
	run := func() (s []string) {
		for _, disks := range d.World().Reboots(rand.New(rand.NewPCG(1, 2)), 10) {
			s = append(s, first(t, disks[0]))
		}
		return s
	}
	if a, b := strings.Join(run(), "\n"), strings.Join(run(), "\n"); a != b {
		t.Errorf("two runs with one seed differ:\n%s\n\n%s", a, b)
	}
}

func TestFaultsFire(t *testing.T) {
	d := crash.New(4 * sector)
	io := errors.New("io")
	d.World().FailAt(2, io)
	d.World().FailAt(9, io)
	write(t, d, 0, 1)
	if err := d.WriteZeroes(0, sector); !errors.Is(err, io) {
		t.Errorf("operation 2: %v", err)
	}
	flush(t, d)
	if n := d.World().Fired(); n != 1 {
		t.Errorf("Fired() = %d, want 1", n)
	}
}

func BenchmarkReboot(b *testing.B) {
	w := crash.NewWorld()
	d := w.NewDisk("d", 64<<20)
	rng := rand.New(rand.NewPCG(1, 0))
	for i := range 300 {
		p := make([]byte, (1+rng.IntN(8))*sector)
		if _, err := d.WriteAt(p, rng.Int64N(d.Size()/4096)*4096); err != nil {
			b.Fatal(err)
		}
		if i%10 == 0 {
			_ = d.Flush()
		}
	}
	b.ReportMetric(float64(len(w.Unsynced())), "unsynced")
	for b.Loop() {
		next := w.Reboot(crash.Random(rng))[0]
		var p [4096]byte
		if _, err := next.ReadAt(p[:], 0); err != nil {
			b.Fatal(err)
		}
	}
}
