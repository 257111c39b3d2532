package snap

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/filter/fault"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/format/dmsnap"
)

// storeOf writes a store of 512-byte chunks with the exceptions, 32 an area.
func storeOf(t *testing.T, list []dmsnap.Exception) *mem.Device {
	t.Helper()
	l := dmsnap.Layout{ChunkBytes: 512}
	areas := uint64(len(list)/l.PerArea()) + 1
	cow := mem.New(l.Off(l.AreaChunk(areas)))
	write := func(p []byte, off int64) {
		if _, err := cow.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	write(dmsnap.Header{Valid: true, ChunkBytes: 512}.Encode(), 0)
	for k := range areas {
		area := make([]byte, 512)
		for i := range min(l.PerArea(), len(list)) {
			dmsnap.PutEntry(area, i, list[i])
		}
		list = list[min(l.PerArea(), len(list)):]
		write(area, l.Off(l.AreaChunk(k)))
	}
	return cow
}

// exceptions returns n with origin chunks all over the place, and runs among them.
func exceptions(rng *rand.Rand, n int) []dmsnap.Exception {
	l := dmsnap.Layout{ChunkBytes: 512}
	next := dmsnap.FirstData
	seen := map[uint64]bool{}
	var list []dmsnap.Exception
	for len(list) < n {
		old := rng.Uint64N(1 << []int{16, 32, 44}[rng.IntN(3)])
		for range 1 + rng.IntN(3)*rng.IntN(20) {
			if !seen[old] && len(list) < n {
				list = append(list, dmsnap.Exception{Old: old, New: next})
				next = l.SkipMetadata(next + 1)
			}
			seen[old] = true
			old++
		}
	}
	return list
}

// However many areas there are, and however they are read, all that count are in
// the index and none else.
func TestOpenLoadsEveryArea(t *testing.T) {
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
	for _, n := range []int{0, 1, 31, 32, 33, 8 * 32, 8*32 + 1, 24*32 - 1, 24 * 32, 24*32 + 5, 5000} {
		list := exceptions(rng, n)
		s := openStore(t, storeOf(t, list), 512)
		if s.Count() != n || s.areaNo != uint64(n/32) || s.used != n%32 {
			t.Fatalf("%d exceptions: %d in area %d, %d of them loaded", n, s.used, s.areaNo, s.Count())
		}
		next := dmsnap.FirstData
		for _, e := range list {
			if got, ok := s.index.get(e.Old); !ok || got != e.New {
				t.Fatalf("of %d exceptions, %+v is loaded as %d, %v", n, e, got, ok)
			}
			next = s.layout.SkipMetadata(e.New + 1)
		}
		if s.next != next {
			t.Fatalf("%d exceptions: next free chunk %d, want %d", n, s.next, next)
		}
	}
}

// Two places for one chunk: nobody knows which has its content.
func TestOpenRefusesChunksExceptedTwice(t *testing.T) {
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
	for range 100 {
		list := exceptions(rng, 2+rng.IntN(2000))
		i, j := rng.IntN(len(list)), rng.IntN(len(list))
		if i == j {
			continue
		}
		list[i].Old = list[j].Old
		if _, err := Open(storeOf(t, list), Options{}); !errs.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), "twice") {
			t.Fatalf("entries %d and %d of %d: %v", i, j, len(list), err)
		}
	}
}

// An area that cannot be read is an error if it counts, and only then.
func TestOpenWithAnUnreadableArea(t *testing.T) {
	const areas = 60
	list := exceptions(rand.New(rand.NewPCG(1, 2)), areas*32-10)
	l := dmsnap.Layout{ChunkBytes: 512}
	cow := storeOf(t, list)
	behind := mem.New(cow.Size() + 100*33*512)
	p := blocktest.ReadAll(t, cow)
	if _, err := behind.WriteAt(p, 0); err != nil {
		t.Fatal(err)
	}
	ahead := 0
	for k := range uint64(areas + 20) {
		script := fault.New(fault.Rule{Ops: fault.Read, Off: l.Off(l.AreaChunk(k)), Len: 512})
		_, err := Open(script.Wrap("cow", behind), Options{})
		if k >= areas {
			if err != nil {
				t.Errorf("area %d, which does not count: %v", k, err)
			}
			ahead += script.Fired()
			continue
		}
		if !errors.Is(err, fault.ErrInjected) || !strings.Contains(err.Error(), fmt.Sprintf("area %d:", k)) {
			t.Errorf("area %d: %v", k, err)
		}
	}
	if ahead == 0 {
		t.Error("no area behind the last was read")
	}
}

// The last area that fits is full: there is no room for the end of the list.
func TestOpenRefusesAStoreWithoutEnd(t *testing.T) {
	for _, areas := range []int{1, 8, 9, 30} {
		cow := storeOf(t, exceptions(rand.New(rand.NewPCG(1, 2)), areas*32))
		short := block.Device(mem.New(int64(areas*33+1) * 512))
		if _, err := short.WriteAt(blocktest.ReadAll(t, cow)[:short.Size()], 0); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(short, Options{}); !errs.Is(err, errs.Corrupt) {
			t.Errorf("%d areas: %v", areas, err)
		}
	}
}
