// Package blocktest is the conformance suite that every block.Device passes:
// the contract in block.Device's comment, sentence by sentence, and a model
// test that compares random operations with a plain byte slice.
//
// It says nothing of power cuts; package crash is for those.
package blocktest

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"cowl/internal/block"
)

// Options adapts the suite to a device. The zero Options are for an ordinary
// writable device of any size.
type Options struct {
	// Sizes of the devices to ask for, in bytes; DefaultSizes if nil.
	Sizes []int64

	// Zeroed promises that a new device reads as zeroes.
	Zeroed bool

	// Steps of the model test; 0 means 1500, and 30000 when COWL_LONG is set.
	Steps int

	// Reopen, if set, closes the device and opens the same bytes again. The
	// model test calls it now and then, and expects the content to be kept.
	Reopen func(t *testing.T, d block.Device) block.Device
}

// DefaultSizes are what a device's arithmetic goes wrong at: less than a
// sector, odd sectors, not a multiple of a page, more than a few pages.
var DefaultSizes = []int64{1, 511, 512, 4096, 5*512 + 7, 64<<10 + 512, 256<<10 + 4095}

// Run runs the suite. The factory makes a new device of exactly the size asked
// for, and cleans up with t.Cleanup; the suite closes what it gets.
func Run(t *testing.T, factory func(t *testing.T, size int64) block.Device, o Options) {
	if o.Sizes == nil {
		o.Sizes = DefaultSizes
	}
	for _, size := range o.Sizes {
		t.Run(strconv.FormatInt(size, 10), func(t *testing.T) {
			s := &suite{factory: factory, size: size, o: o}
			t.Run("fresh", s.fresh)
			t.Run("ranges", s.ranges)
			t.Run("zero length", s.zeroLength)
			t.Run("unaligned", s.unaligned)
			t.Run("buffers", s.buffers)
			t.Run("write zeroes", s.writeZeroes)
			t.Run("discard", s.discard)
			t.Run("extents", s.extents)
			t.Run("parallel", s.parallel)
			t.Run("neighbours", s.neighbours)
			t.Run("model", s.model)
			t.Run("close", s.close)
		})
	}
}

// RunReadOnly checks a device whose Caps say ReadOnly: it holds the content,
// refuses every change with errs.Conflict, and still holds the content.
func RunReadOnly(t *testing.T, d block.Device, content []byte) {
	t.Helper()
	readOnly(t, d, content)
}

// suite is the run for one size.
type suite struct {
	factory func(t *testing.T, size int64) block.Device
	size    int64
	o       Options
}

// device makes a device and checks what can be said of any.
func (s *suite) device(t *testing.T) block.Device {
	t.Helper()
	d := s.factory(t, s.size)
	if got := d.Size(); got != s.size {
		t.Fatalf("Size() = %d, asked for %d", got, s.size)
	}
	checkCaps(t, d)
	if d.Caps().ReadOnly {
		t.Fatal("the device is read-only: use RunReadOnly")
	}
	return d
}

func checkCaps(t *testing.T, d block.Device) {
	t.Helper()
	c := d.Caps()
	if bs := c.BlockSize; bs < block.SectorSize || bs&(bs-1) != 0 {
		t.Fatalf("Caps().BlockSize = %d, want a power of 2, at least 512", bs)
	}
	if c != d.Caps() {
		t.Fatal("Caps() changed between two calls")
	}
}

// Seed returns the seed of a random test, which it logs so that a failure can
// be replayed: COWL_SEED if that is set, otherwise a new one.
func Seed(t testing.TB) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("COWL_SEED"); v != "" {
		n, err := strconv.ParseUint(v, 0, 64)
		if err != nil {
			t.Fatalf("COWL_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("replay with COWL_SEED=%d", seed)
	return seed
}

// Long reports whether COWL_LONG asks for the long versions of tests.
func Long() bool { return os.Getenv("COWL_LONG") != "" }

// ReadAll returns the device's whole content.
func ReadAll(t testing.TB, d block.Device) []byte {
	t.Helper()
	b := make([]byte, d.Size())
	readAt(t, d, b, 0)
	return b
}

func readAt(t testing.TB, d block.Device, p []byte, off int64) {
	t.Helper()
	if n, err := d.ReadAt(p, off); n != len(p) || err != nil {
		t.Fatalf("ReadAt(%d bytes, %d) = %d, %v", len(p), off, n, err)
	}
}

func writeAt(t testing.TB, d block.Device, p []byte, off int64) {
	t.Helper()
	if n, err := d.WriteAt(p, off); n != len(p) || err != nil {
		t.Fatalf("WriteAt(%d bytes, %d) = %d, %v", len(p), off, n, err)
	}
}

// closed closes the device at the end of a test.
func closed(t testing.TB, d block.Device) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Errorf("Close() = %v", err)
	}
}

// pattern fills p with bytes that tell their offset (modulo 255 sectors) and a
// generation apart, none of them zero.
func pattern(p []byte, off int64, generation int) {
	v := (off%255*7 + int64(generation)*31) % 255
	for i := range p {
		p[i] = byte(v) + 1
		if v += 7; v >= 255 {
			v -= 255
		}
	}
}

// differ describes the first difference of two equally long slices, "" if none.
func differ(got, want []byte) string {
	if bytes.Equal(got, want) {
		return ""
	}
	for i := range want {
		if got[i] != want[i] {
			n := 0
			for j := i; j < len(want) && got[j] != want[j]; j++ {
				n++
			}
			return fmt.Sprintf("%d bytes at offset %d: got %#x, want %#x", n, i, got[i], want[i])
		}
	}
	return ""
}
