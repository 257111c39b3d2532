package snap

import (
	"bytes"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"cowl/internal/block/blocktest"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
)

// collect returns a walk's ranges, neighbours joined.
func collect(t testing.TB, walk iter.Seq2[Range, error]) []Range {
	t.Helper()
	var out []Range
	for r, err := range walk {
		if err != nil {
			t.Fatal(err)
		}
		if n := len(out); n > 0 && out[n-1].Off+out[n-1].Len == r.Off {
			out[n-1].Len += r.Len
		} else {
			out = append(out, r)
		}
	}
	return out
}

// A backup reads what Changed names and nothing else: a chunk that is missing
// from it would be wrong in every backup from then on.
func TestChangedNamesWhatDiffers(t *testing.T) {
	seed := blocktest.Seed(t)
	runs := 60
	if blocktest.Long() {
		runs = 2000
	}
	compared := 0
	for i := range runs {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		m := newMachine(rng, mem.New(int64(64<<10)+rng.Int64N(3)*1536), nil)
		for k := range 3 {
			m.slots = append(m.slots, &slot{name: fmt.Sprintf("cow%d", k), disk: newWindow(mem.New(600<<10), 600<<10)})
		}
		m.align = 1 << rng.IntN(11)
		for step := range 200 {
			if err := m.step(); err != nil {
				t.Fatalf("seed %d, run %d, step %d: %v\n%s", seed, i, step, err, strings.Join(m.log, ", "))
			}
			if step%10 != 9 {
				continue
			}
			n, err := m.checkChanged()
			if err != nil {
				t.Fatalf("seed %d, run %d, step %d: %v\n%s", seed, i, step, err, strings.Join(m.log, ", "))
			}
			compared += n
		}
	}
	if compared < runs {
		t.Errorf("only %d snapshots were compared", compared)
	}
}

// checkChanged compares every attached snapshot with the origin outside of
// what has changed, and returns how many it could.
func (m *machine) checkChanged() (compared int, err error) {
	for i, s := range m.slots {
		if s.snap == nil || s.store.err() != nil {
			continue
		}
		now, then := make([]byte, s.size), make([]byte, s.size)
		at := int64(0)
		same := func(end int64) error {
			if !bytes.Equal(now[at:end], then[at:end]) {
				return fmt.Errorf("snapshot %d differs between %d and %d, where nothing is said to have changed", i, at, end)
			}
			return nil
		}
		var ranges []Range
		for r, err := range s.snap.Changed() {
			if errs.Is(err, errs.Conflict) && m.o.merge != nil {
				return compared, nil
			}
			if err != nil {
				return compared, err
			}
			ranges = append(ranges, r)
		}
		if _, err := m.o.ReadAt(now, 0); err != nil {
			return compared, err
		}
		if _, err := s.snap.ReadAt(then, 0); err != nil {
			return compared, err
		}
		for _, r := range ranges {
			if r.Off < at || r.Len <= 0 || r.Off+r.Len > s.size || r.Off%s.chunk != 0 {
				return compared, fmt.Errorf("range %+v behind %d of a snapshot of %d bytes", r, at, s.size)
			}
			if err := same(r.Off); err != nil {
				return compared, err
			}
			at = r.Off + r.Len
		}
		if err := same(s.size); err != nil {
			return compared, err
		}
		compared++
	}
	return compared, nil
}

// A write that was acknowledged before counts, although no store knows of it
// yet; the snapshot's own writes count; what follows each other is not told apart
// by how it came about.
func TestChangedCountsStagedAndOwnWrites(t *testing.T) {
	const size, chunk = 1 << 20, 4096
	o := NewOrigin(mem.New(size), OriginOptions{Manual: true})
	n := attach(t, o, newStore(t, size, chunk))
	if got := collect(t, n.Changed()); len(got) != 0 {
		t.Errorf("of a new snapshot: %v", got)
	}
	o.WriteAt(bytes.Repeat([]byte{1}, 512), 5*chunk+512)
	n.WriteAt([]byte{2}, 6*chunk)
	o.WriteZeroes(size-chunk, chunk)
	o.Discard(100*chunk, 2*chunk)
	want := []Range{{5 * chunk, 2 * chunk}, {100 * chunk, 2 * chunk}, {size - chunk, chunk}}
	if got := collect(t, n.Changed()); !slices.Equal(got, want) {
		t.Errorf("changed %v, want %v", got, want)
	}
}

// What an overflowed snapshot keeps is not all that has changed, and nobody
// may take it for that. Also when it overflows in the middle of the walk.
func TestChangedOfAnInvalidSnapshot(t *testing.T) {
	const size, chunk = 16 << 20, 4096
	o := NewOrigin(mem.New(size), OriginOptions{Manual: true})
	n := attach(t, o, newStore(t, size, chunk))
	for off := int64(0); off < 4*exceptedBatch*chunk/2; off += 2 * chunk {
		o.WriteAt([]byte{1}, off)
	}
	seen, failed := 0, false
	for _, err := range n.Changed() {
		if err != nil {
			failed = true
			break
		}
		if seen++; seen == 10 {
			if err := n.store.invalidate("test"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !failed {
		t.Errorf("%d ranges of a snapshot that overflowed on the way, and no error", seen)
	}
	for _, err := range n.Changed() {
		if err == nil {
			t.Error("a range of an invalid snapshot")
		}
	}
	o.Detach(n)
}

// While writers go on, the walk has all that was written before it began.
func TestChangedUnderLoad(t *testing.T) {
	const size, chunk = 8 << 20, 4096
	seed := blocktest.Seed(t)
	o := NewOrigin(mem.New(size), OriginOptions{})
	defer o.Close()
	n := attach(t, o, newStore(t, size, chunk))
	var mu sync.Mutex
	done := map[int64]bool{} // chunks whose write has returned
	var writers sync.WaitGroup
	for w := range 4 {
		rng := rand.New(rand.NewPCG(seed, uint64(w)))
		writers.Go(func() {
			for range 400 {
				c := rng.Int64N(size / chunk)
				if _, err := o.WriteAt(bytes.Repeat([]byte{1}, 512), c*chunk); err != nil {
					t.Error(err)
				}
				mu.Lock()
				done[c] = true
				mu.Unlock()
			}
		})
	}
	for range 20 {
		mu.Lock()
		var before []int64
		for c := range done {
			before = append(before, c)
		}
		mu.Unlock()
		got := map[int64]bool{}
		for _, r := range collect(t, n.Changed()) {
			for c := r.Off / chunk; c < (r.Off+r.Len)/chunk; c++ {
				got[c] = true
			}
		}
		for _, c := range before {
			if !got[c] {
				t.Fatalf("chunk %d was written and is not said to have changed (seed %d)", c, seed)
			}
		}
	}
	writers.Wait()
}
