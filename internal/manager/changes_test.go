package manager

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"cowl/internal/block/blocktest"
	"cowl/internal/errs"
)

// What is put in comes out again, joined where it touches, also after a journey
// as JSON.
func TestChangesKeepRanges(t *testing.T) {
	seed := blocktest.Seed(t)
	for i := range 200 {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		chunk := int64(512) << rng.IntN(11)
		c := &Changes{Chunk: chunk, Bytes: 1 + rng.Int64N(chunk*5000)}
		var want []Range
		for at := int64(0); ; {
			off := at + chunk*rng.Int64N(40)*int64(rng.IntN(2))
			if off >= c.Bytes {
				break
			}
			r := Range{off, min(chunk*(1+rng.Int64N(60)), c.Bytes-off)}
			if err := c.Add(r.Off, r.Len); err != nil {
				t.Fatalf("seed %d, run %d: %v", seed, i, err)
			}
			if n := len(want); n > 0 && want[n-1].End() == r.Off {
				want[n-1].Len += r.Len
			} else {
				want = append(want, r)
			}
			at = r.End()
		}
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var back Changes
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		if err := back.Validate(); err != nil {
			t.Fatalf("seed %d, run %d: %v", seed, i, err)
		}
		if got := slices.Collect(back.All()); !slices.Equal(got, want) {
			t.Fatalf("seed %d, run %d: %v, want %v", seed, i, got, want)
		}
		var total int64
		for _, r := range want {
			total += r.Len
		}
		if back.Total() != total {
			t.Errorf("seed %d, run %d: %d bytes in all, want %d", seed, i, back.Total(), total)
		}
	}
}

func TestChangesRefuseWhatDoesNotFollow(t *testing.T) {
	for _, r := range []Range{{0, 4096}, {4096, 100}, {8191, 4096}, {8192, 0}, {8192, -4096}, {12288, 4096}, {math.MaxInt64 &^ 4095, 4096}, {-4096, 4096}} {
		c := &Changes{Chunk: 4096, Bytes: 3*4096 + 10}
		if err := c.Add(4096, 4096); err != nil {
			t.Fatal(err)
		}
		if err := c.Add(r.Off, r.Len); !errs.Is(err, errs.Other) {
			t.Errorf("%+v: %v", r, err)
		}
		if got := slices.Collect(c.All()); !slices.Equal(got, []Range{{4096, 4096}}) {
			t.Errorf("%+v: then %v", r, got)
		}
	}
}

// A message may claim anything.
func FuzzChanges(f *testing.F) {
	f.Add(int64(1<<20), int64(4096), []byte{0, 1, 3, 2})
	f.Add(int64(1<<20), int64(4096), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1})
	f.Add(int64(math.MaxInt64), int64(512), []byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Add(int64(0), int64(0), []byte{1})
	f.Fuzz(func(t *testing.T, size, chunk int64, code []byte) {
		c := &Changes{Bytes: size, Chunk: chunk, Code: code}
		valid := c.Validate() == nil
		again := &Changes{Bytes: size, Chunk: chunk}
		at := int64(-1)
		for r := range c.All() {
			if r.Off <= at || r.Len <= 0 || r.Len > size-r.Off {
				t.Fatalf("range %+v behind %d of %d bytes", r, at, size)
			}
			at = r.End()
			if valid {
				if err := again.Add(r.Off, r.Len); err != nil {
					t.Fatal(err)
				}
			}
		}
		if valid && !slices.Equal(slices.Collect(again.All()), slices.Collect(c.All())) {
			t.Fatalf("%x becomes %x", code, again.Code)
		}
	})
}
