package file

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cowl/internal/block/blocktest"
)

// Reads find the same bytes whether all, some or none of them are in the page
// cache, and whether or not the file system can tell.
func TestReadsOfWhatIsNotCached(t *testing.T) {
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
	d, err := Create(filepath.Join(t.TempDir(), "file"), 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	want := aligned(rng, int(d.Size()))
	if _, err := d.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	whole, part := 0, 0
	for i := range 400 {
		if i == 300 {
			d.cached.cannot.Store(true)
		}
		from := rng.Int64N(d.Size())
		if err := unix.Fadvise(int(d.f.Fd()), from&^4095, 64<<10, unix.FADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, rng.IntN(128<<10))
		off := max(0, min(from-int64(rng.IntN(len(p)+1)), d.Size()-int64(len(p))))
		switch n := d.cached.read(p, off); {
		case n == len(p):
			whole++
		case n > 0:
			part++
		}
		clear(p)
		if n, err := d.ReadAt(p, off); n != len(p) || err != nil || !bytes.Equal(p, want[off:][:n]) {
			t.Fatalf("read %d bytes at %d: %d, %v, or other bytes", len(p), off, n, err)
		}
	}
	t.Logf("%d were in the cache, of %d a part", whole, part)

	// A file that somebody cut short says so, wherever the end is.
	d.cached.cannot.Store(false)
	if err := os.Truncate(d.Path(), 10000); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 8192)
	if n, err := d.ReadAt(p, 4096); n != 10000-4096 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read over the end of a file that was cut short: %d, %v", n, err)
	}

	// The descriptor of what was closed may be another file's by now.
	d.cached.cannot.Store(false)
	d.Close()
	if n, err := d.ReadAt(p[:512], 0); n != 0 || !errors.Is(err, os.ErrClosed) {
		t.Errorf("read of a device that was closed: %d, %v", n, err)
	}
}
