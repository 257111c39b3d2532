//go:build linux

package kernel

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"cowl/internal/block/blocktest"
)

// newRand returns random numbers; a failing test says how to replay them.
func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	return rand.New(rand.NewPCG(blocktest.Seed(t), 0))
}

// world is a stack with what its devices must hold.
type world struct {
	rng     *rand.Rand
	chunk   int64
	origin  []byte
	snaps   map[int][]byte
	invalid map[int]bool
}

func newWorld(rng *rand.Rand, chunk, size int64) *world {
	return &world{rng: rng, chunk: chunk, origin: make([]byte, size), snaps: map[int][]byte{}, invalid: map[int]bool{}}
}

func (w *world) create(i int) {
	w.snaps[i] = bytes.Clone(w.origin)
	delete(w.invalid, i)
}

func (w *world) attached() []int {
	var is []int
	for i := range w.snaps {
		is = append(is, i)
	}
	slices.Sort(is)
	return is
}

// batch makes random writes and applies them to the model: any 512-byte
// range, most of them small, some of them over many chunks.
func (w *world) batch(n int, devs ...int) []write {
	var ws []write
	for range n {
		dev := devs[w.rng.IntN(len(devs))]
		most := 2 * w.chunk
		if w.rng.IntN(10) == 0 {
			most = 32 * w.chunk
		}
		size := int64(len(w.origin))
		length := min(1+w.rng.Int64N(most/512), size/512) * 512
		off := w.rng.Int64N((size-length)/512+1) * 512
		data := make([]byte, length)
		for i := range data {
			data[i] = byte(w.rng.Uint32())
		}
		ws = append(ws, write{dev, off, data})
		w.apply(ws[len(ws)-1])
	}
	return ws
}

func (w *world) apply(x write) { copy(w.content(x.dev)[x.off:], x.data) }

func (w *world) content(dev int) []byte {
	if dev < 0 {
		return w.origin
	}
	return w.snaps[dev]
}

// check compares a side with the model.
func (w *world) check(t *testing.T, s side) {
	t.Helper()
	for _, dev := range append([]int{-1}, w.attached()...) {
		want := w.origin
		if dev >= 0 {
			want = w.snaps[dev]
		}
		got, err := s.read(dev)
		if w.invalid[dev] {
			if err == nil {
				t.Errorf("%s: device %d is invalid, and can be read", s.name(), dev)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: read device %d: %v", s.name(), dev, err)
			continue
		}
		if at := differ(got, want); at >= 0 {
			t.Errorf("%s: device %d differs first in sector %d (chunk %d)", s.name(), dev, at/512, int64(at)/w.chunk)
		}
	}
}

// differ returns where two contents differ first, or -1.
func differ(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// compare compares the sides' status lines with each other, and contents with
// the model.
func (w *world) compare(t *testing.T, sides []side) {
	t.Helper()
	for _, i := range w.attached() {
		a, b := sides[0].status(i), sides[1].status(i)
		if a != b {
			t.Errorf("status of snapshot %d: %s says %q, %s says %q", i, sides[0].name(), a, sides[1].name(), b)
		}
		if a == "Invalid" {
			w.invalid[i] = true
		}
	}
	for _, s := range sides {
		w.check(t, s)
	}
}

// A machine that loses power while a snapshot is being merged comes back under
// the other side, which must finish the merge: with what was written to the
// origin in the meantime, and with a second snapshot that must not notice.
func TestMergeHandOver(t *testing.T) {
	for _, kernelFirst := range []bool{true, false} {
		name := "cowl, then the kernel"
		if kernelFirst {
			name = "the kernel, then cowl"
		}
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			rng := newRand(t)
			const chunk, size = 4096, 6 << 20
			st := newStack(t, chunk, size, 2*size, 2*size)
			var first, second side = &engine{t: t, rng: rng}, nil
			if kernelFirst {
				first = newDM(t, st)
			}
			w := newWorld(rng, chunk, size)

			first.open(st)
			check(t, first.write(w.scattered(-1, size/chunk)))
			first.create(0)
			first.create(1)
			w.create(0)
			w.create(1)
			// More than one area of exceptions (256 chunks), few of them in a row.
			check(t, first.write(w.scattered(0, 900)))
			check(t, first.write(w.batch(40, -1, 0, 1)))
			w.check(t, first)

			first.merge(0)
			w.merge(0)
			check(t, first.write(w.batch(20, -1, 1)))
			first.mergeSome()

			if kernelFirst {
				second = &engine{t: t, rng: rng}
			} else {
				second = newDM(t, st)
			}
			second.openMerging(st, 0, 1)
			w.check(t, second)
			check(t, second.write(w.batch(20, -1, 1)))
			w.check(t, second)
			second.mergeAll()
			w.check(t, second)
			second.shut()

			// What is on the disk is what the merged origin shows.
			e := &engine{t: t, rng: rng}
			e.open(st, 1)
			w.check(t, e)
			e.shut()
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// merge makes the model's origin what a snapshot was.
func (w *world) merge(i int) {
	w.origin = w.snaps[i]
	delete(w.snaps, i)
}

// scattered writes n whole chunks in random order.
func (w *world) scattered(dev, n int) []write {
	var ws []write
	for _, c := range w.rng.Perm(len(w.origin) / int(w.chunk))[:n] {
		x := write{dev, int64(c) * w.chunk, bytes.Repeat([]byte{byte(w.rng.Uint32())}, int(w.chunk))}
		w.apply(x)
		ws = append(ws, x)
	}
	return ws
}

// Filling a store to the last chunk, and one more: both sides must draw the
// line at the same write, and neither may bring the snapshot back to life.
func TestOverflow(t *testing.T) {
	const chunk, size = 4096, 2 << 20
	// 1 header, 1 area, 14 data chunks.
	const cow, room = 16 * chunk, 14
	stacks := []*stack{newStack(t, chunk, size, cow), newStack(t, chunk, size, cow)}
	k := newDM(t, stacks...)
	for _, victim := range []int{-1, 0} { // the write that overflows goes to the origin, to the snapshot
		t.Run(fmt.Sprintf("device_%d", victim), func(t *testing.T) {
			sides := []side{&engine{t: t, rng: newRand(t)}, k}
			w := newWorld(newRand(t), chunk, size)
			w.create(0)
			for i, s := range sides {
				s.open(stacks[i])
				check(t, s.write([]write{{-1, 0, w.origin}}))
				s.create(0)
			}
			for n := range room + 1 {
				x := write{victim, int64(n) * 2 * chunk, bytes.Repeat([]byte{byte(n + 1)}, chunk)}
				w.apply(x)
				for _, s := range sides {
					err := s.write([]write{x})
					if full := n == room; (err != nil) != (full && victim == 0) {
						t.Errorf("%s: write %d of %d: error %v", s.name(), n, room, err)
					}
				}
				w.compare(t, sides)
				if w.invalid[0] != (n == room) {
					t.Errorf("after write %d of %d the snapshot's status is %q", n+1, room, sides[0].status(0))
				}
			}
			// Under the other side it is still invalid.
			for _, s := range sides {
				s.shut()
			}
			for i, s := range sides {
				s.open(stacks[1-i], 0)
				if got := s.status(0); got != "Invalid" {
					t.Errorf("%s: an overflowed snapshot of the other side has status %q", s.name(), got)
				}
				w.check(t, s)
				s.shut()
			}
		})
	}
}
