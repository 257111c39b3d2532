package blocktest

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"cowl/internal/block"
	"cowl/internal/errs"
)

func (s *suite) fresh(t *testing.T) {
	d := s.device(t)
	defer closed(t, d)
	if err := d.Flush(); err != nil {
		t.Errorf("Flush of a new device: %v", err)
	}
	if !s.o.Zeroed {
		t.Skip("a new device's content is not promised")
	}
	if got := ReadAll(t, d); len(bytes.Trim(got, "\x00")) != 0 {
		t.Error("a new device does not read as zeroes")
	}
}

// badRanges are outside of a device of the given size.
func badRanges(size int64) [][2]int64 {
	return [][2]int64{
		{-1, 1}, {-1, 0}, {math.MinInt64, 1}, {size, 1}, {size + 1, 0}, {size + 1, 1}, {0, size + 1},
		{size - 1, 2}, {math.MaxInt64, 1}, {math.MaxInt64, 0}, {math.MaxInt64 - 1, 4},
	}
}

// A request outside of the device must be refused as a whole: a device that
// writes the part that fits corrupts data, one that grows eats its neighbour.
func (s *suite) ranges(t *testing.T) {
	d := s.device(t)
	defer closed(t, d)
	before := make([]byte, s.size)
	pattern(before, 0, 1)
	writeAt(t, d, before, 0)

	refused := func(what string, r [2]int64, n int, err error) {
		if n != 0 || !errs.Is(err, errs.Usage) {
			t.Errorf("%s at %d of %d bytes, device of %d: n %d, error %v; want 0 and errs.Usage", what, r[0], r[1], s.size, n, err)
		}
	}
	for _, r := range badRanges(s.size) {
		p := bytes.Repeat([]byte{0xee}, int(r[1]))
		n, err := d.ReadAt(p, r[0])
		refused("ReadAt", r, n, err)
		n, err = d.WriteAt(p, r[0])
		refused("WriteAt", r, n, err)
	}
	for _, r := range append(badRanges(s.size), [2]int64{0, -1}, [2]int64{s.size, -1}, [2]int64{1, math.MaxInt64}, [2]int64{0, math.MinInt64}) {
		refused("Discard", r, 0, d.Discard(r[0], r[1]))
		refused("WriteZeroes", r, 0, d.WriteZeroes(r[0], r[1]))
		_, err := collect(d, r[0], r[1])
		refused("Extents", r, 0, err)
	}
	if diff := differ(ReadAll(t, d), before); diff != "" {
		t.Errorf("refused requests changed %s", diff)
	}
	if d.Size() != s.size {
		t.Errorf("refused requests changed the size to %d", d.Size())
	}
}

func (s *suite) zeroLength(t *testing.T) {
	d := s.device(t)
	defer closed(t, d)
	before := ReadAll(t, d)
	for _, off := range []int64{0, s.size / 2, s.size} {
		for _, p := range [][]byte{nil, {}} {
			if n, err := d.ReadAt(p, off); n != 0 || err != nil {
				t.Errorf("ReadAt(0 bytes, %d) = %d, %v", off, n, err)
			}
			if n, err := d.WriteAt(p, off); n != 0 || err != nil {
				t.Errorf("WriteAt(0 bytes, %d) = %d, %v", off, n, err)
			}
		}
		if err := d.Discard(off, 0); err != nil {
			t.Errorf("Discard(%d, 0) = %v", off, err)
		}
		if err := d.WriteZeroes(off, 0); err != nil {
			t.Errorf("WriteZeroes(%d, 0) = %v", off, err)
		}
		if es, err := collect(d, off, 0); len(es) != 0 || err != nil {
			t.Errorf("Extents(%d, 0) = %v, %v", off, es, err)
		}
	}
	if diff := differ(ReadAll(t, d), before); diff != "" {
		t.Errorf("requests of no bytes changed %s", diff)
	}
}

// edges are the offsets where implementations switch from one block, page or
// part to the next.
func (s *suite) edges() []int64 {
	var es []int64
	for _, at := range []int64{0, 512, 1024, 4096, 8192, 64 << 10, s.size / 2, s.size - s.size%512, s.size - s.size%4096, s.size} {
		for _, off := range []int64{at - 1, at, at + 1} {
			if off >= 0 && off <= s.size {
				es = append(es, off)
			}
		}
	}
	slices.Sort(es)
	return slices.Compact(es)
}

// Ranges from every edge to some of the next and to the end are written, and
// nothing around them may change.
func (s *suite) unaligned(t *testing.T) {
	d := s.device(t)
	defer closed(t, d)
	want := make([]byte, s.size)
	pattern(want, 0, 0)
	writeAt(t, d, want, 0)

	generation := 0
	edges := s.edges()
	for i, from := range edges {
		next := edges[i:min(i+7, len(edges))]
		for _, to := range append(slices.Clip(next), s.size) {
			generation++
			pattern(want[from:to], from, generation)
			writeAt(t, d, want[from:to], from)
			around := [2]int64{max(0, from-700), min(s.size, to+700)}
			got := make([]byte, around[1]-around[0])
			readAt(t, d, got, around[0])
			if diff := differ(got, want[around[0]:around[1]]); diff != "" {
				t.Fatalf("after writing [%d, %d), in [%d, %d): %s", from, to, around[0], around[1], diff)
			}
		}
	}
	if diff := differ(ReadAll(t, d), want); diff != "" {
		t.Fatal(diff)
	}
}

// A buffer is the caller's again when the call returns, and a write may not
// even for a moment change it.
func (s *suite) buffers(t *testing.T) {
	d := s.device(t)
	defer closed(t, d)
	want := make([]byte, s.size)
	pattern(want, 0, 3)
	buf := bytes.Clone(want)
	writeAt(t, d, buf, 0)
	if diff := differ(buf, want); diff != "" {
		t.Fatalf("WriteAt changed its argument: %s", diff)
	}
	fill(buf, 0xaa)
	if diff := differ(ReadAll(t, d), want); diff != "" {
		t.Fatalf("the device kept the caller's buffer: %s", diff)
	}
	readAt(t, d, buf, 0)
	kept := bytes.Clone(buf)
	other := make([]byte, s.size)
	pattern(other, 0, 4)
	writeAt(t, d, other, 0)
	if diff := differ(buf, kept); diff != "" {
		t.Fatalf("a later write showed through a buffer that was read: %s", diff)
	}
	fill(kept, 0xbb) // the device may not have handed out what it stores
	if diff := differ(ReadAll(t, d), other); diff != "" {
		t.Fatalf("the caller changed the device through a read buffer: %s", diff)
	}
}

func fill(p []byte, b byte) {
	for i := range p {
		p[i] = b
	}
}

func (s *suite) writeZeroes(t *testing.T) {
	d := s.device(t)
	defer closed(t, d)
	full := make([]byte, s.size)
	pattern(full, 0, 5)
	edges := s.edges()
	for i, from := range edges {
		to := edges[i+(len(edges)-i)/2]
		writeAt(t, d, full, 0)
		if err := d.WriteZeroes(from, to-from); err != nil {
			t.Fatalf("WriteZeroes(%d, %d) = %v", from, to-from, err)
		}
		want := bytes.Clone(full)
		clear(want[from:to])
		if diff := differ(ReadAll(t, d), want); diff != "" {
			t.Fatalf("after WriteZeroes(%d, %d): %s", from, to-from, diff)
		}
		checkExtents(t, d, 0, s.size, want)
	}
	if err := d.WriteZeroes(0, s.size); err != nil {
		t.Fatalf("WriteZeroes of the whole device: %v", err)
	}
	if diff := differ(ReadAll(t, d), make([]byte, s.size)); diff != "" {
		t.Fatalf("after WriteZeroes of the whole device: %s", diff)
	}
}

func (s *suite) discard(t *testing.T) {
	d := s.device(t)
	defer closed(t, d)
	full := make([]byte, s.size)
	pattern(full, 0, 6)
	edges := s.edges()
	for i, from := range edges {
		to := edges[i+(len(edges)-i)/2]
		writeAt(t, d, full, 0)
		if err := d.Discard(from, to-from); err != nil {
			t.Fatalf("Discard(%d, %d) = %v", from, to-from, err)
		}
		got := ReadAll(t, d)
		for at := from; at < to; at++ {
			if got[at] != 0 && got[at] != full[at] {
				t.Fatalf("after Discard(%d, %d): byte %d reads %#x, neither the old %#x nor 0", from, to-from, at, got[at], full[at])
			}
		}
		copy(got[from:to], full[from:to])
		if diff := differ(got, full); diff != "" {
			t.Fatalf("Discard(%d, %d) changed what is outside: %s", from, to-from, diff)
		}
		checkExtents(t, d, 0, s.size, ReadAll(t, d))
	}
}

func (s *suite) extents(t *testing.T) {
	d := s.device(t)
	defer closed(t, d)
	checkExtents(t, d, 0, s.size, ReadAll(t, d))
	rng := rand.New(rand.NewPCG(Seed(t), 1))
	if err := d.WriteZeroes(0, s.size); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, s.size)
	for range 8 {
		off, n := randomRange(rng, s.size)
		n = min(n, 20_000)
		pattern(want[off:off+n], off, 7)
		writeAt(t, d, want[off:off+n], off)
	}
	edges := s.edges()
	for i, from := range edges {
		for _, to := range edges[i:] {
			checkExtents(t, d, from, to-from, want)
		}
	}
	// A consumer may stop early, and may use the device from within the loop.
	for e, err := range d.Extents(0, s.size) {
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, min(e.Len, 4096))
		readAt(t, d, p, e.Off)
		writeAt(t, d, p, e.Off)
		break
	}
}

func (s *suite) close(t *testing.T) {
	d := s.device(t)
	p := make([]byte, s.size)
	writeAt(t, d, p, 0)
	if err := d.Flush(); err != nil {
		t.Errorf("Flush() = %v", err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("Close() = %v", err)
	}
}

func readOnly(t *testing.T, d block.Device, content []byte) {
	t.Helper()
	checkCaps(t, d)
	if !d.Caps().ReadOnly {
		t.Error("Caps().ReadOnly is false")
	}
	if d.Size() != int64(len(content)) {
		t.Fatalf("Size() = %d, want %d", d.Size(), len(content))
	}
	n := min(int64(len(content)), 600)
	_, err := d.WriteAt(bytes.Repeat([]byte{0xdd}, int(n)), 0)
	for what, err := range map[string]error{
		"WriteAt": err, "Discard": d.Discard(0, n), "WriteZeroes": d.WriteZeroes(0, n),
	} {
		if !errs.Is(err, errs.Conflict) {
			t.Errorf("%s on a read-only device: %v, want errs.Conflict", what, err)
		}
	}
	if err := d.Flush(); err != nil {
		t.Errorf("Flush of a read-only device, where there is nothing to do: %v", err)
	}
	if diff := differ(ReadAll(t, d), content); diff != "" {
		t.Errorf("content: %s", diff)
	}
	checkExtents(t, d, 0, d.Size(), content)
	for _, r := range badRanges(d.Size()) {
		if _, err := d.ReadAt(make([]byte, r[1]), r[0]); !errs.Is(err, errs.Usage) {
			t.Errorf("ReadAt(%d bytes, %d) = %v, want errs.Usage", r[1], r[0], err)
		}
	}
}
