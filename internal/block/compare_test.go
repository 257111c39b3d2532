package block_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/mem"
)

// failing fails reads that touch a byte.
type failing struct {
	block.Device
	at int64
}

var errBroken = errors.New("broken")

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if off <= f.at && f.at < off+int64(len(p)) {
		return 0, errBroken
	}
	return f.Device.ReadAt(p, off)
}

// What Differing yields is what a comparison of all bytes finds, in blocks of 4 KiB,
// wherever there are holes.
func TestDiffering(t *testing.T) {
	random := rand.New(rand.NewPCG(blocktest.Seed(t), 1))
	const size = 3<<20 + 512*3
	for range 30 {
		a, b := mem.New(size), mem.New(size)
		for range random.IntN(40) {
			p := bytes.Repeat([]byte{byte(random.IntN(3))}, 1+random.IntN(100000))
			off := random.Int64N(size - int64(len(p)))
			for _, d := range [][]*mem.Device{{a}, {b}, {a, b}}[random.IntN(3)] {
				if _, err := d.WriteAt(p, off); err != nil {
					t.Fatal(err)
				}
			}
		}
		off := random.Int64N(size)
		length := random.Int64N(size - off)
		x, y := make([]byte, length), make([]byte, length)
		_, errA := a.ReadAt(x, off)
		_, errB := b.ReadAt(y, off)
		if err := errors.Join(errA, errB); err != nil {
			t.Fatal(err)
		}
		differs := make([]bool, size) // by byte, what lies in a block of which some differs
		for at := int64(0); at < length; {
			n := min(4096-(off+at)%4096, length-at)
			for i := range n {
				differs[off+at+i] = !bytes.Equal(x[at:at+n], y[at:at+n])
			}
			at += n
		}
		end := int64(-1)
		for e, err := range block.Differing(t.Context(), a, b, off, length) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Off <= end || e.Len <= 0 {
				t.Fatalf("%+v behind byte %d", e, end)
			}
			end = e.End()
			for i := e.Off; i < end; i++ {
				if !differs[i] {
					t.Fatalf("%+v: byte %d is in a block that is the same", e, i)
				}
				differs[i] = false
			}
		}
		if i := bytes.IndexByte(boolBytes(differs), 1); i >= 0 {
			t.Fatalf("byte %d is in a block that differs, and was not named", i)
		}
	}
}

func boolBytes(bools []bool) []byte {
	out := make([]byte, len(bools))
	for i, b := range bools {
		if b {
			out[i] = 1
		}
	}
	return out
}

// An error ends a comparison, on whichever side it is.
func TestDifferingFails(t *testing.T) {
	full := func() block.Device {
		d := mem.New(4 << 20)
		if _, err := d.WriteAt(bytes.Repeat([]byte{1}, 4<<20), 0); err != nil {
			t.Fatal(err)
		}
		return d
	}
	for name, pair := range map[string][2]block.Device{"first": {&failing{full(), 3 << 20}, full()}, "second": {full(), &failing{full(), 3 << 20}}} {
		var got error
		for _, err := range block.Differing(t.Context(), pair[0], pair[1], 0, 4<<20) {
			if got != nil {
				t.Errorf("%s: something comes behind the error", name)
			}
			got = err
		}
		if !errors.Is(got, errBroken) {
			t.Errorf("%s: %v", name, got)
		}
	}
}
