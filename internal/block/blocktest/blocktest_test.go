package blocktest_test

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/mem"
)

// A suite is worth what it catches: each of these devices breaks the contract
// in one way, and the suite must fail on it.
var broken = map[string]func(good block.Device) block.Device{
	"keeps the buffer":          func(d block.Device) block.Device { return &keepsBuffer{Device: d} },
	"writes what fits":          func(d block.Device) block.Device { return &writesWhatFits{d} },
	"changes its argument":      func(d block.Device) block.Device { return &changesArgument{d} },
	"reads and writes sectors":  func(d block.Device) block.Device { return &sectorWriter{d} },
	"zeroes whole sectors only": func(d block.Device) block.Device { return &zeroesWhole{d} },
	"discards too much":         func(d block.Device) block.Device { return &discardsMore{d} },
	"all is a hole":             func(d block.Device) block.Device { return &allHole{d} },
	"extents leave a gap":       func(d block.Device) block.Device { return &gappy{d} },
	"extents not clipped":       func(d block.Device) block.Device { return &unclipped{d} },
	"wrong error":               func(d block.Device) block.Device { return &wrongError{d} },
	"not zeroed":                func(d block.Device) block.Device { _, _ = d.WriteAt([]byte{1}, 0); return d },
	"flush fails":               func(d block.Device) block.Device { return &flushFails{d} },
	"reopen loses":              func(d block.Device) block.Device { return d },
}

const brokenEnv = "COWL_BLOCKTEST_BROKEN"

func TestSuiteCatches(t *testing.T) {
	if name := os.Getenv(brokenEnv); name != "" {
		runBroken(t, name)
		return
	}
	for name := range broken {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestSuiteCatches$")
			cmd.Env = append(os.Environ(), brokenEnv+"="+name)
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatalf("the suite passes a device that %s", name)
			}
			if !strings.Contains(string(out), "--- FAIL") || strings.Contains(string(out), "panic:") {
				t.Fatalf("the suite did not fail in an orderly way: %v\n%s", err, out)
			}
		})
	}
}

// runBroken is what the helper process does.
func runBroken(t *testing.T, name string) {
	o := blocktest.Options{Zeroed: true, Sizes: []int64{5*512 + 7, 64<<10 + 512}, Steps: 500}
	if name == "reopen loses" {
		o.Reopen = func(_ *testing.T, d block.Device) block.Device { return mem.New(d.Size()) }
	}
	blocktest.Run(t, func(_ *testing.T, size int64) block.Device { return broken[name](mem.New(size)) }, o)
}

type keepsBuffer struct {
	block.Device
	last []byte
	off  int64
}

func (d *keepsBuffer) WriteAt(p []byte, off int64) (int, error) {
	d.last, d.off = p, off
	return d.Device.WriteAt(p, off)
}

func (d *keepsBuffer) ReadAt(p []byte, off int64) (int, error) {
	if d.last != nil {
		_, _ = d.Device.WriteAt(d.last, d.off) // writes back late
		d.last = nil
	}
	return d.Device.ReadAt(p, off)
}

type writesWhatFits struct{ block.Device }

func (d *writesWhatFits) WriteAt(p []byte, off int64) (int, error) {
	n, err := d.Device.WriteAt(p, off)
	if err != nil && off >= 0 && off < d.Size() {
		return d.Device.WriteAt(p[:d.Size()-off], off)
	}
	return n, err
}

type changesArgument struct{ block.Device }

func (d *changesArgument) WriteAt(p []byte, off int64) (int, error) {
	n, err := d.Device.WriteAt(p, off)
	clear(p)
	return n, err
}

// sectorWriter rounds writes to sectors by reading first, without a lock.
type sectorWriter struct{ block.Device }

func (d *sectorWriter) WriteAt(p []byte, off int64) (int, error) {
	n := int64(len(p))
	if err := block.CheckRange(off, n, d.Size()); err != nil {
		return 0, err
	}
	from, to := off-off%512, min((off+n+511)/512*512, d.Size())
	b := make([]byte, to-from)
	if _, err := d.ReadAt(b, from); err != nil {
		return 0, err
	}
	time.Sleep(50 * time.Microsecond) // a real one waits for its read, and others run
	copy(b[off-from:], p)
	if _, err := d.Device.WriteAt(b, from); err != nil {
		return 0, err
	}
	return len(p), nil
}

type zeroesWhole struct{ block.Device }

func (d *zeroesWhole) WriteZeroes(off, length int64) error {
	if err := block.CheckRange(off, length, d.Size()); err != nil {
		return err
	}
	from := (off + 511) / 512 * 512
	return d.Device.WriteZeroes(min(from, off+length), max(0, off+length-from))
}

type discardsMore struct{ block.Device }

func (d *discardsMore) Discard(off, length int64) error {
	if err := block.CheckRange(off, length, d.Size()); err != nil || length == 0 {
		return err
	}
	return d.Device.WriteZeroes(off-off%512, length+off%512)
}

type allHole struct{ block.Device }

func (d *allHole) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	if err := block.CheckRange(off, length, d.Size()); err != nil {
		return block.NoExtents(err)
	}
	return block.OneExtent(block.Extent{Off: off, Len: length, Kind: block.Hole})
}

type gappy struct{ block.Device }

func (d *gappy) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		for e, err := range d.Device.Extents(off, length) {
			if (err != nil || e.Kind == block.Data) && !yield(e, err) {
				return
			}
		}
	}
}

type unclipped struct{ block.Device }

func (d *unclipped) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	if err := block.CheckRange(off, length, d.Size()); err != nil || length == 0 {
		return d.Device.Extents(off, length)
	}
	return block.OneExtent(block.Extent{Len: d.Size()})
}

type wrongError struct{ block.Device }

func (d *wrongError) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.Device.ReadAt(p, off)
	if err != nil {
		err = fmt.Errorf("unclassified")
	}
	return n, err
}

type flushFails struct{ block.Device }

func (d *flushFails) Flush() error { return errors.New("flush fails") }
