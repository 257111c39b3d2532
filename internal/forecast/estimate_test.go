package forecast

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"cowl/internal/errs"
	"cowl/internal/volume"
)

// watch lets a recorder see a workload for some slots.
func watch(slots int, f func(slot int, touch func(off, length int64))) *Pattern {
	var r Recorder
	for slot := range slots {
		f(slot, r.Touch)
		r.Step()
	}
	return r.Pattern()
}

// What was never watched is not known, and is not said to be nothing.
func TestNothingKnown(t *testing.T) {
	for _, p := range []*Pattern{nil, {}, {Slot: Slot, Slots: 5}} {
		if e := p.After(time.Hour); e.Confidence != None || e.High != (Counts{}) {
			t.Errorf("%+v gives %+v", p, e)
		}
	}
	var nobody *Pattern
	if nobody.Watched() != 0 || nobody.Clone() != nil {
		t.Error("nobody has watched something")
	}
}

// The two extremes: a log that never comes back, and a set that is written
// over and over. Each is known after a minute, and both write the same amount.
func TestAppendAndRewrite(t *testing.T) {
	const rate = 16 // MiB a second
	log := watch(64, func(slot int, touch func(off, length int64)) { touch(int64(slot)*rate<<20, rate<<20) })
	same := watch(64, func(_ int, touch func(off, length int64)) { touch(0, rate<<20) })
	e := log.After(10 * time.Minute)
	if got, want := float64(e.Likely[0]), float64(600*rate<<20/4096); math.Abs(got-want) > want/50 {
		t.Errorf("a log touches %v chunks in 10 minutes, want %v", got, want)
	}
	if e.Confidence != Guess && e.Confidence != Poor {
		t.Errorf("a minute tells of ten: %v", e.Confidence)
	}
	e = same.After(10 * time.Minute)
	if got, want := e.Likely[0], int64(rate<<20/4096); got != want {
		t.Errorf("a set touches %v chunks in 10 minutes, want %v", got, want)
	}
	for _, d := range []time.Duration{0, time.Second, 90 * time.Second, 24 * time.Hour} {
		e := same.After(d)
		for k := range Sizes {
			if e.Low[k] > e.Likely[k] || e.Likely[k] > e.High[k] {
				t.Errorf("after %v: %d, %d, %d chunks of size %d", d, e.Low[k], e.Likely[k], e.High[k], k)
			}
		}
	}
}

// Grades follow from how long was watched and how steady it was.
func TestConfidence(t *testing.T) {
	steadily := func(_ int, touch func(off, length int64)) {
		for range 100 {
			touch(rand.Int64N(1<<20)<<12, 4096)
		}
	}
	wildly := func(slot int, touch func(off, length int64)) {
		if slot%200 == 199 {
			touch(rand.Int64N(1<<20)<<12, 1<<30)
		}
	}
	for _, c := range []struct {
		slots int
		f     func(int, func(off, length int64))
		want  Confidence
	}{{1, steadily, Guess}, {10, steadily, Poor}, {64, steadily, Fair}, {256, steadily, Good}, {256, wildly, Poor}, {3, wildly, Guess}} {
		if got := watch(c.slots, c.f).After(time.Minute).Confidence; got != c.want {
			t.Errorf("%d slots: %v, want %v", c.slots, got, c.want)
		}
	}
}

// Scattered pages want small chunks, long writes large ones.
func TestChunkSize(t *testing.T) {
	scattered := watch(100, func(_ int, touch func(off, length int64)) {
		for range 50 {
			touch(rand.Int64N(1<<24)<<12, 4096)
		}
	})
	long := watch(100, func(slot int, touch func(off, length int64)) { touch(int64(slot)<<24, 16<<20) })
	const size, extent = 64 << 30, 4 << 20
	if a := Advise(scattered, time.Minute, size, extent); a.Take().ChunkBytes != 4<<10 {
		t.Errorf("scattered pages: %d", a.Take().ChunkBytes)
	}
	if a := Advise(long, time.Minute, size, extent); a.Take().ChunkBytes != 512<<10 {
		t.Errorf("long writes: %d", a.Take().ChunkBytes)
	}
}

// The store is what LVM2 would make of it: whole extents, never more than can
// be of use, never less than works.
func TestCowSize(t *testing.T) {
	const extent = 4 << 20
	all := watch(100, func(_ int, touch func(off, length int64)) { touch(0, 100<<20) })
	a := Advise(all, time.Hour, 100<<20, extent)
	for _, n := range a.Needs {
		most := volume.CowMax(100<<20, volume.Sectors(n.ChunkBytes/512))
		if want := (most + extent - 1) / extent * extent; n.Cow != want {
			t.Errorf("chunks of %d KiB: %d bytes for all of the volume, want %d", n.ChunkBytes>>10, n.Cow, want)
		}
	}
	idle := watch(100, func(int, func(off, length int64)) {})
	if n := Advise(idle, time.Hour, 1<<30, 512).Take(); n.Cow < leastData || n.Cow > 2*leastData {
		t.Errorf("a volume without writes: %d bytes", n.Cow)
	}
	if n := Advise(idle, time.Hour, 512, 512).Take(); n.Cow != 3*4096 {
		t.Errorf("a tiny volume: %d bytes", n.Cow)
	}
}

// What is in a state file is a pattern or an error, and no pattern can make the
// arithmetic panic or leave the volume.
func FuzzPattern(f *testing.F) {
	for _, p := range []*Pattern{
		watch(45, func(slot int, touch func(off, length int64)) { touch(int64(slot)<<20, 1<<20) }),
		watch(3, func(int, func(off, length int64)) {}),
		NewAreas(1<<20, 1<<30, Slot, nil).Pattern(),
		{Slot: Slot, Slots: math.MaxInt64, Windows: []Window{{Slots: 1, Samples: []Sample{{Error: 10}}}}},
	} {
		text, err := json.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, int64(time.Hour))
	}
	f.Add([]byte(`{"slot_ns":1000000,"windows":[{"slots":3,"samples":[{"count":[4503599627370496]}]}]}`), int64(math.MaxInt64))
	f.Fuzz(func(t *testing.T, text []byte, d int64) {
		var p Pattern
		if json.Unmarshal(text, &p) != nil {
			return
		}
		if err := p.Validate(); err != nil {
			if !errs.Is(err, errs.Corrupt) {
				t.Fatal(err)
			}
			return
		}
		const size, extent = 1 << 40, 4 << 20
		a := Advise(&p, time.Duration(d), size, extent)
		for _, n := range a.Needs {
			if n.Low < 0 || n.Likely < n.Low || n.High < n.Likely || n.High > size/n.ChunkBytes || n.Cow <= 0 || n.Cow > size+size/64 {
				t.Fatalf("%+v of %s", n, text)
			}
		}
		r := NewRecorder(p.Clone())
		r.Touch(0, 1<<20)
		r.Step()
		next := r.Pattern()
		next.Slot = max(next.Slot, p.Slot)
		if err := next.Validate(); err != nil && p.Slots < math.MaxInt64 {
			t.Fatal(err)
		}
		p.Watched()
	})
}
