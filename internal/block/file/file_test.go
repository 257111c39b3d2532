package file_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/file"
	"cowl/internal/errs"
)

func create(t testing.TB, size int64) *file.Device {
	t.Helper()
	d, err := file.Create(filepath.Join(t.TempDir(), "disk.img"), size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func open(t testing.TB, path string, o file.Options) *file.Device {
	t.Helper()
	d, err := file.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func reopen(t *testing.T, d block.Device) block.Device {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, d.(*file.Device).Path(), file.Options{Lock: file.Exclusive})
}

func TestConformance(t *testing.T) {
	blocktest.Run(t, func(t *testing.T, size int64) block.Device {
		return create(t, size)
	}, blocktest.Options{Zeroed: true, Reopen: reopen})
}

// File systems without holes get zeroes as bytes.
func TestConformanceWithoutHoles(t *testing.T) {
	blocktest.Run(t, func(t *testing.T, size int64) block.Device {
		d := create(t, size)
		file.WithoutHoles(d)
		file.OnSync(d, func() error { return nil }) // to save time
		return d
	}, blocktest.Options{Zeroed: true})
}

func TestReadOnly(t *testing.T) {
	content := bytes.Repeat([]byte("cowl"), 1000)
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, content, 0o444); err != nil {
		t.Fatal(err)
	}
	d := open(t, path, file.Options{ReadOnly: true, Lock: file.Exclusive})
	blocktest.RunReadOnly(t, d, content)
	if err := d.Grow(1 << 20); !errs.Is(err, errs.Conflict) {
		t.Errorf("Grow of a read-only file: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]errs.Kind{
		filepath.Join(dir, "absent"): errs.NotFound,
		dir:                          errs.Usage,
		os.DevNull:                   errs.Unsupported,
	} {
		d, err := file.Open(path, file.Options{})
		if !errs.Is(err, want) {
			t.Errorf("Open(%s) = %v, %v; want kind %v", path, d, err, want)
		}
	}
}

func TestCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.img")
	d, err := file.Create(path, 12345)
	if err != nil {
		t.Fatal(err)
	}
	if d.Size() != 12345 || d.Path() != path {
		t.Errorf("size %d, path %s", d.Size(), d.Path())
	}
	if _, err := file.Open(path, file.Options{Lock: file.Exclusive}); !errs.Is(err, errs.Busy) {
		t.Errorf("a file just created is not locked: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Create(path, 1); !errs.Is(err, errs.Exists) {
		t.Errorf("Create over an existing file: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != 12345 {
		t.Errorf("the existing file was touched: %v, %v", info, err)
	}
	// What cannot be made must not stay behind half made.
	for _, size := range []int64{-1, 1<<63 - 1} {
		bad := filepath.Join(t.TempDir(), "bad.img")
		if d, err := file.Create(bad, size); err == nil {
			_ = d.Close() // some file systems can
			continue
		}
		if _, err := os.Stat(bad); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Create of %d bytes left a file: %v", size, err)
		}
	}
}

func TestGrow(t *testing.T) {
	d := create(t, 1000)
	old := bytes.Repeat([]byte{1}, 1000)
	if _, err := d.WriteAt(old, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt(old, 1000); !errs.Is(err, errs.Usage) {
		t.Errorf("write behind the end before Grow: %v", err)
	}
	if err := d.Grow(5000); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 5000)
	copy(want, old)
	if got := blocktest.ReadAll(t, d); !bytes.Equal(got, want) {
		t.Error("a grown file does not hold the old bytes and zeroes")
	}
	if _, err := d.WriteAt(old, 4000); err != nil {
		t.Errorf("write into the new part: %v", err)
	}
	if err := d.Grow(4999); !errs.Is(err, errs.Usage) || d.Size() != 5000 {
		t.Errorf("Grow to less: %v, size %d", err, d.Size())
	}
	again := reopen(t, d)
	if again.Size() != 5000 {
		t.Errorf("size after reopening: %d", again.Size())
	}
}

// A file that somebody truncates must not read as anything.
func TestTruncatedWhileOpen(t *testing.T) {
	d := create(t, 8192)
	if err := os.Truncate(d.Path(), 5000); err != nil {
		t.Fatal(err)
	}
	n, err := d.ReadAt(make([]byte, 4096), 4096)
	if n != 904 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("ReadAt = %d, %v", n, err)
	}
}

func TestFlushIsSkippedOnlyWhenNothingWasWritten(t *testing.T) {
	d := create(t, 64<<10)
	syncs := 0
	file.OnSync(d, func() error { syncs++; return nil })
	flush := func(when string, want int) {
		t.Helper()
		syncs = 0
		if err := d.Flush(); err != nil {
			t.Fatal(err)
		}
		if syncs != want {
			t.Errorf("%s: %d syncs, want %d", when, syncs, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func() {
		_, err := d.WriteAt([]byte{1}, 0)
		must(err)
	}
	flush("first after opening: another process may have written", 1)
	flush("nothing written", 0)
	write()
	flush("written", 1)
	flush("nothing written since", 0)
	must(d.WriteZeroes(0, 8192))
	flush("zeroed", 1)
	must(d.Discard(0, 8192))
	if d.Caps().Discard {
		flush("discarded", 1)
	}
	must(d.Grow(128 << 10))
	flush("grown", 1)

	// A write that completes while a sync runs may not be covered by it.
	write()
	during := write
	file.OnSync(d, func() error {
		syncs++
		during()
		during = func() {}
		return nil
	})
	flush("with a write during the sync", 1)
	flush("written during the sync before", 1)
	flush("nothing written since", 0)
}

// The kernel reports lost pages once and forgets them; the device must not.
func TestFailedFlushStays(t *testing.T) {
	d := create(t, 4096)
	if _, err := d.WriteAt([]byte{1}, 0); err != nil {
		t.Fatal(err)
	}
	lost := errors.New("pages lost")
	fired := 0
	file.OnSync(d, func() error {
		if fired++; fired == 1 {
			return lost
		}
		return nil
	})
	for i := range 3 {
		if err := d.Flush(); !errors.Is(err, lost) {
			t.Errorf("flush %d: %v", i, err)
		}
		if _, err := d.WriteAt([]byte{2}, 0); err != nil {
			t.Errorf("write %d after a failed flush: %v", i, err)
		}
	}
	if fired != 1 {
		t.Errorf("%d syncs, want 1", fired)
	}
	if err := reopen(t, d).Flush(); err != nil {
		t.Errorf("after reopening: %v", err)
	}
}

func TestNoAllocations(t *testing.T) {
	d := create(t, 1<<20)
	p := make([]byte, 4096)
	if n := testing.AllocsPerRun(100, func() {
		_, _ = d.WriteAt(p, 8192)
		_, _ = d.ReadAt(p, 8192)
	}); n != 0 {
		t.Errorf("%v allocations per write and read", n)
	}
}

func BenchmarkDevice(b *testing.B) {
	d := create(b, 64<<20)
	p := make([]byte, 4096)
	next := int64(0)
	off := func() int64 { next = (next + 4096*997) % (64 << 20); return next }
	b.Run("WriteAt", func(b *testing.B) {
		b.SetBytes(4096)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := d.WriteAt(p, off()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ReadAt", func(b *testing.B) {
		b.SetBytes(4096)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := d.ReadAt(p, off()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("WriteAt and Flush", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := d.WriteAt(p, off()); err != nil {
				b.Fatal(err)
			}
			if err := d.Flush(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Flush of nothing", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := d.Flush(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// Writers that flush their own writes, side by side: the flush of one may skip
// the system call only if another's has covered its write. What is durable is
// what the file held when a sync began.
func TestFlushSkippingIsRaceFree(t *testing.T) {
	const writers, rounds = 3, 3000
	d := create(t, writers*8)
	var mu sync.Mutex
	var durable [writers]uint64
	file.OnSync(d, func() error {
		var p [writers * 8]byte
		_, err := d.ReadAt(p[:], 0)
		mu.Lock()
		defer mu.Unlock()
		for i := range durable {
			durable[i] = binary.LittleEndian.Uint64(p[i*8:])
		}
		return err
	})
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			var p [8]byte
			for round := uint64(1); round <= rounds; round++ {
				binary.LittleEndian.PutUint64(p[:], round)
				if _, err := d.WriteAt(p[:], int64(w)*8); err != nil {
					t.Error(err)
					return
				}
				if err := d.Flush(); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				got := durable[w]
				mu.Unlock()
				if got != round {
					t.Errorf("writer %d flushed %d, durable is %d", w, round, got)
					return
				}
			}
		})
	}
	wg.Wait()
}

// A file grows while it is in use, to what was asked for at least.
func TestEnlarge(t *testing.T) {
	d := create(t, 1000)
	enlarge := func(size, want int64) {
		t.Helper()
		if got, err := d.Enlarge(size); got != want || err != nil || d.Size() != want {
			t.Errorf("Enlarge(%d) = %d, %v; the size is %d, want %d", size, got, err, d.Size(), want)
		}
	}
	enlarge(70000, 70000)
	enlarge(5000, 70000) // it is long enough
	if _, err := d.WriteAt([]byte{1}, 69999); err != nil {
		t.Error(err)
	}
	if err := os.Truncate(d.Path(), 90000); err != nil {
		t.Fatal(err)
	}
	enlarge(80000, 90000) // somebody else was faster
	if err := os.Truncate(d.Path(), 100); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Enlarge(100000); !errs.Is(err, errs.Conflict) || d.Size() != 90000 {
		t.Errorf("of a file that somebody cut: %v, size %d", err, d.Size())
	}
	ro, err := file.Open(d.Path(), file.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	if _, err := ro.Enlarge(100000); !errs.Is(err, errs.Conflict) {
		t.Errorf("of a file that is open for reading: %v", err)
	}
}
