package file

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"cowl/internal/block/blocktest"
	"cowl/internal/judge"
)

// aligned returns n random bytes that direct I/O takes.
func aligned(rng *rand.Rand, n int) []byte {
	b := make([]byte, n+directAlign)
	for !isAligned(b[:n], 0) {
		b = b[1:]
	}
	for i := range b[:n] {
		b[i] = byte(rng.Uint32())
	}
	return b[:n]
}

// withDirect returns a file whose large writes go by direct I/O.
func withDirect(t *testing.T, dir string) *Device {
	t.Helper()
	d, err := Create(filepath.Join(dir, "file"), 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	if d.direct == nil {
		t.Skip("no direct I/O here")
	}
	return d
}

// What direct I/O wrote is in the disk's cache, and what says where it lies is in
// memory: it needs a flush as any other write does.
func TestDirectWritesAreFlushed(t *testing.T) {
	d := withDirect(t, t.TempDir())
	syncs := 0
	d.sync = func(*os.File) error { syncs++; return nil }
	flush := func(want int) {
		t.Helper()
		if err := d.Flush(); err != nil || syncs != want {
			t.Errorf("%d syncs, want %d (%v)", syncs, want, err)
		}
	}
	flush(1) // what a process that was killed may have left
	flush(1)
	if _, err := d.WriteAt(aligned(rand.New(rand.NewPCG(1, 1)), directBytes), 4096); err != nil {
		t.Fatal(err)
	}
	if d.noDirect.Load() {
		t.Skip("direct I/O was refused")
	}
	flush(2)
	flush(2)
}

// Two flushes run at a time, and a third that comes meanwhile is made by nobody
// if one that began after its changes was.
func TestFlushesAtOnce(t *testing.T) {
	d := withDirect(t, t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		d.ended = sync.Cond{L: &d.mu} // of this bubble
		lost := errors.New("pages lost")
		var begun []*os.File
		ends := []chan error{make(chan error), make(chan error), make(chan error)}
		d.sync = func(f *os.File) error {
			d.mu.Lock()
			begun = append(begun, f)
			end := ends[len(begun)-1]
			d.mu.Unlock()
			return <-end
		}
		results := make([]error, 4)
		returned := make([]bool, 4)
		start := func(i int) {
			if _, err := d.WriteAt([]byte{1}, int64(i)); err != nil {
				t.Fatal(err)
			}
			go func() { results[i], returned[i] = d.Flush(), true }()
			synctest.Wait()
		}
		for i := range 3 {
			start(i)
		}
		if len(begun) != 2 || begun[0] == begun[1] {
			t.Fatalf("%d syncs under way, want 2 by descriptions of their own", len(begun))
		}
		ends[1] <- nil // began before the third's write: it does not cover it
		synctest.Wait()
		if !slices.Equal(returned, []bool{false, true, false, false}) || results[1] != nil || len(begun) != 3 {
			t.Fatalf("after the second: returned %v, %d syncs, %v", returned, len(begun), results[1])
		}
		start(3) // must wait, and be covered by nothing that runs
		ends[0] <- lost
		synctest.Wait()
		if !returned[0] || !returned[3] || !errors.Is(results[0], lost) || !errors.Is(results[3], lost) {
			t.Errorf("after the first failed: returned %v, %v", returned, results)
		}
		ends[2] <- nil // the kernel told the other description only
		synctest.Wait()
		if !errors.Is(results[2], lost) {
			t.Errorf("a flush beside one that failed: %v", results[2])
		}
	})
}

// Who waits for a flush that covers his changes makes none.
func TestFlushIsShared(t *testing.T) {
	d := withDirect(t, t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		d.ended = sync.Cond{L: &d.mu}
		d.idle = d.idle[:1]
		syncs, end := 0, make(chan error)
		d.sync = func(*os.File) error { syncs++; return <-end }
		done := 0
		for i := range 5 {
			if _, err := d.WriteAt([]byte{1}, int64(i)); err != nil {
				t.Fatal(err)
			}
			go func() {
				if err := d.Flush(); err != nil {
					t.Error(err)
				}
				d.mu.Lock()
				done++
				d.mu.Unlock()
			}()
			synctest.Wait()
		}
		end <- nil
		synctest.Wait()
		if syncs != 2 || done != 1 {
			t.Errorf("%d syncs, %d flushes done; want one more sync for the four that wait", syncs, done)
		}
		end <- nil
		synctest.Wait()
		if syncs != 2 || done != 5 {
			t.Errorf("%d syncs, %d flushes done; want all done by the second", syncs, done)
		}
	})
}

// A direct write that fails is not made again through the page cache, which would
// only fail later; part of it may have been made, and so the next flush is made.
func TestDirectWriteFails(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	d := withDirect(t, t.TempDir())
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	syncs := 0
	d.sync = func(*os.File) error { syncs++; return nil }

	failing, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		judge.Absent(t, "%v", err)
	}
	defer failing.Close()
	defer d.direct.Close()
	d.direct = failing
	if _, err := d.WriteAt(aligned(rng, directBytes), 0); !errors.Is(err, syscall.ENOSPC) || d.noDirect.Load() {
		t.Errorf("on a full disk: %v, direct I/O given up: %v", err, d.noDirect.Load())
	}
	if err := d.Flush(); err != nil || syncs != 1 {
		t.Errorf("%d syncs behind a write that failed (%v)", syncs, err)
	}
	got := make([]byte, directBytes)
	if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, make([]byte, len(got))) {
		t.Errorf("a write that failed was made all the same (%v)", err)
	}
}

// The power is cut behind flushes: what an ext4 has given to its disk by then is
// copied, mounted and read. Direct writes change what lies where (blocks that
// were a hole, or allocated and never written), and that must be there as well.
func TestDirectWritesSurviveAPowerCut(t *testing.T) {
	judge.NeedLoop(t)
	judge.Need(t, "mke2fs")
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
	}
	run(judge.Find("mke2fs"), "-q", "-t", "ext4", image, "32m")
	at, after := filepath.Join(dir, "at"), filepath.Join(dir, "after")
	for _, d := range []string{at, after} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	run("mount", "-o", "loop", image, at)
	t.Cleanup(func() { run("umount", at) })
	d := withDirect(t, at)
	t.Cleanup(func() { d.Close() })
	want := make([]byte, d.Size())
	if err := d.Allocate(4<<20, 2<<20); err != nil {
		t.Fatal(err)
	}
	cuts := 6
	if blocktest.Long() {
		cuts = 100
	}
	for cut := range cuts {
		for range 1 + rng.IntN(6) {
			n := directBytes << rng.IntN(3)
			off := rng.Int64N(d.Size()-int64(n)) &^ 4095
			if rng.IntN(4) == 0 {
				if err := d.WriteZeroes(off, int64(n)); err != nil {
					t.Fatal(err)
				}
				clear(want[off:][:n])
				continue
			}
			b := aligned(rng, n)
			if rng.IntN(4) == 0 {
				off, b = off+512, b[:n-4096] // through the page cache
			}
			if _, err := d.WriteAt(b, off); err != nil {
				t.Fatal(err)
			}
			copy(want[off:], b)
		}
		if err := d.Flush(); err != nil {
			t.Fatal(err)
		}
		copyImage(t, image, image+".cut")
		run("mount", "-o", "loop", image+".cut", after)
		got, err := os.ReadFile(filepath.Join(after, "file"))
		run("umount", after)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("behind flush %d the file has lost something (%v)", cut+1, err)
		}
	}
	if d.noDirect.Load() {
		t.Error("direct I/O was refused")
	}
}

func copyImage(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
}
