package mem_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/mem"
)

func TestConformance(t *testing.T) {
	blocktest.Run(t, func(t *testing.T, size int64) block.Device {
		return mem.New(size)
	}, blocktest.Options{Zeroed: true})
}

// A clone stacks layers; the contract must hold however many there are.
func TestConformanceOfClones(t *testing.T) {
	blocktest.Run(t, func(t *testing.T, size int64) block.Device {
		return mem.New(size)
	}, blocktest.Options{Zeroed: true, Reopen: func(t *testing.T, d block.Device) block.Device {
		return d.(*mem.Device).Clone()
	}})
}

// Clones of clones, all of them written to: none may see another's writes.
func TestClonesAreIndependent(t *testing.T) {
	const size = 10*4096 + 100
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
	devs := []*mem.Device{mem.New(size)}
	want := [][]byte{make([]byte, size)}
	for step := range 3000 {
		i := rng.IntN(len(devs))
		off := rng.Int64N(size)
		n := rng.Int64N(min(size-off, 9000)) + 1
		switch rng.IntN(10) {
		case 0:
			if len(devs) < 40 {
				devs = append(devs, devs[i].Clone())
				want = append(want, bytes.Clone(want[i]))
			}
		case 1, 2, 3:
			if err := devs[i].WriteZeroes(off, n); err != nil {
				t.Fatal(err)
			}
			clear(want[i][off : off+n])
		default:
			if _, err := devs[i].WriteAt(bytes.Repeat([]byte{byte(step) | 1}, int(n)), off); err != nil {
				t.Fatal(err)
			}
			fill := want[i][off : off+n]
			for j := range fill {
				fill[j] = byte(step) | 1
			}
		}
	}
	if len(devs) < 40 {
		t.Fatalf("only %d clones were made", len(devs))
	}
	for i, d := range devs {
		if !bytes.Equal(blocktest.ReadAll(t, d), want[i]) {
			t.Errorf("clone %d differs from its model", i)
		}
	}
}

// 16 TiB must cost nothing, whatever is asked of the whole range.
func TestHuge(t *testing.T) {
	const size = 16 << 40
	d := mem.New(size)
	for _, off := range []int64{0, 5 << 40, size - 3} {
		if _, err := d.WriteAt([]byte("abc"), off); err != nil {
			t.Fatal(err)
		}
	}
	c := d.Clone()
	if err := c.WriteZeroes(1, size-2); err != nil {
		t.Fatal(err)
	}
	if err := d.Discard(4096, size-8192); err != nil {
		t.Fatal(err)
	}
	var kinds []block.ExtentKind
	for e, err := range c.Extents(0, size) {
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, e.Kind)
	}
	if want := []block.ExtentKind{block.Data, block.Hole, block.Data}; !bytes.Equal(bytesOf(kinds), bytesOf(want)) {
		t.Errorf("extents %v, want %v", kinds, want)
	}
	got := make([]byte, 3)
	if _, err := c.ReadAt(got, size-3); err != nil || string(got) != "\x00\x00c" {
		t.Errorf("read %q, %v", got, err)
	}
}

func bytesOf(ks []block.ExtentKind) []byte {
	var b []byte
	for _, k := range ks {
		b = append(b, byte(k))
	}
	return b
}
