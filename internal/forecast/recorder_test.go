package forecast

import (
	"math"
	"math/rand/v2"
	"sync"
	"testing"
)

// tally is what a Recorder estimates, counted.
type tally [Sizes]map[int64]bool

func newTally() *tally {
	var t tally
	for k := range t {
		t[k] = map[int64]bool{}
	}
	return &t
}

func (t *tally) touch(off, length int64) {
	for k := range t {
		for no := off / ChunkBytes(k); no*ChunkBytes(k) < off+length; no++ {
			t[k][no] = true
		}
	}
}

func (t *tally) counts() (c Counts) {
	for k := range t {
		c[k] = int64(len(t[k]))
	}
	return c
}

// What fits is counted exactly, for every chunk size, wherever writes begin
// and end.
func TestRecorderCountsWhatFits(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var r Recorder
		want := newTally()
		for range 1 + rng.IntN(3000) {
			off, length := rng.Int64N(600<<20), 1+rng.Int64N(1<<rng.IntN(22))
			r.Touch(off, length)
			want.touch(off, length)
		}
		r.Step()
		got := r.Pattern().Windows[0].Samples[0]
		if got.Count != want.counts() || got.Error != 0 {
			t.Fatalf("seed %d: %v (error %v), want %v", seed, got.Count, got.Error, want.counts())
		}
	}
}

// What does not fit is estimated, and the error is what it is said to be.
func TestRecorderEstimatesTheRest(t *testing.T) {
	outside := 0
	const runs = 16
	for seed := range uint64(runs) {
		rng := rand.New(rand.NewPCG(seed, 2))
		var r Recorder
		want := newTally()
		for range 60000 {
			off := rng.Int64N(1<<40) &^ 4095
			if rng.IntN(3) == 0 {
				off = rng.Int64N(16<<30) &^ 4095 // a denser part
			}
			r.Touch(off, 4096)
			want.touch(off, 4096)
		}
		r.Step()
		got := r.Pattern().Windows[0].Samples[0]
		for k, n := range want.counts() {
			off := math.Abs(float64(got.Count[k]-n)) / float64(n)
			if off > 0.12 {
				t.Errorf("seed %d: %d chunks of %d KiB, want %d", seed, got.Count[k], ChunkBytes(k)>>10, n)
			}
			if k == 0 && off > 2*float64(got.Error) {
				outside++
			}
		}
		if got.Error == 0 || got.Error > 0.05 {
			t.Errorf("seed %d: error %v", seed, got.Error)
		}
	}
	if outside > runs/8 {
		t.Errorf("%d of %d counts are off by more than twice the error that they are said to have", outside, runs)
	}
}

// The windows are those of the slots, whatever their lengths.
func TestRecorderWindows(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	var r Recorder
	const slots = 45 // 32 + 8 + 4 + 1
	var tallies [slots]*tally
	for i := range tallies {
		tallies[i] = newTally()
		for range rng.IntN(50) { // also none
			off := rng.Int64N(2000) * 4096
			r.Touch(off, 4096)
			tallies[i].touch(off, 4096)
		}
		r.Step()
	}
	union := func(list []*tally) Counts {
		all := newTally()
		for _, one := range list {
			for k := range one {
				for no := range one[k] {
					all[k][no] = true
				}
			}
		}
		return all.counts()
	}
	p := r.Pattern()
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	if p.Slots != slots || len(p.Windows) != 7 {
		t.Fatalf("%d slots, %d lengths", p.Slots, len(p.Windows))
	}
	for _, w := range p.Windows {
		n := int(w.Slots)
		first := 0
		if want := slots / n; want > remembered {
			first = want - remembered
		}
		for i, s := range w.Samples {
			at := (first + i) * n
			if want := union(tallies[at : at+n]); s.Count != want {
				t.Errorf("window %d of %d slots: %v, want %v", i, n, s.Count, want)
			}
		}
	}
	if last := p.Windows[6]; last.Slots != slots {
		t.Errorf("the longest window has %d slots", last.Slots)
	}
}

// A Recorder goes on where another stopped, and what the other saw in one
// stretch is not lost because this one is younger.
func TestRecorderGoesOn(t *testing.T) {
	var r Recorder
	for i := range int64(45) {
		r.Touch(i<<19, 4096)
		r.Step()
	}
	next := NewRecorder(r.Pattern())
	next.Step()
	p := next.Pattern()
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	last := p.Windows[len(p.Windows)-1]
	if p.Slots != 46 || last.Slots != 45 || last.Samples[0].Count[0] != 45 {
		t.Errorf("%d slots, the longest window has %d: %v", p.Slots, last.Slots, last.Samples)
	}
	if n := len(p.Windows[0].Samples); n != remembered || p.Windows[0].Samples[n-1].Count[0] != 0 {
		t.Errorf("the last slot is %v", p.Windows[0].Samples[n-1])
	}
}

// Many at once, with slots ending in between: nothing races, and next to
// nothing is lost.
func TestRecorderParallel(t *testing.T) {
	var r Recorder
	var done sync.WaitGroup
	for g := range int64(4) {
		done.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 4))
			for i := range int64(20000) {
				r.Touch((4*i+g)<<19, 4096)               // each region once
				r.Touch(rng.Int64N(1<<30)&^4095, 64<<10) // and a dense part
			}
		})
	}
	for range 5 {
		r.Step()
		r.Pattern()
	}
	done.Wait()
	for range 3 {
		r.Step() // 8 slots in all
	}
	p := r.Pattern()
	got := p.Windows[len(p.Windows)-1].Samples[0].Count[Sizes-1]
	if want := 80000.0; math.Abs(float64(got)-want) > want/8 {
		t.Errorf("%d regions, want about %v", got, want)
	}
}

// Memory and time of a slot are bounded whatever is written.
func TestRecorderIsBounded(t *testing.T) {
	var r Recorder
	for slot := range 6 {
		for i := range int64(100000) {
			r.Touch((i*7919+int64(slot))<<19, 512<<10)
		}
		r.Step()
	}
	for level, s := range r.past.pending {
		if s != nil && len((*s).regions) > kept {
			t.Errorf("level %d holds %d regions", level, len((*s).regions))
		}
	}
	if used := r.live.Load().used.Load(); used > tableFull {
		t.Errorf("%d cells are used", used)
	}
	for range idleSlots + 1 {
		r.Step()
	}
	if r.live.Load() != nil || r.spare != nil {
		t.Error("the tables of an idle volume are kept")
	}
}

func BenchmarkTouch(b *testing.B) {
	patterns := []struct {
		name   string
		span   int64
		length int64
	}{{"hot 64 MiB, 4 KiB", 64 << 20, 4096}, {"random in 1 TiB, 4 KiB", 1 << 40, 4096}, {"random in 1 GiB, 1 MiB", 1 << 30, 1 << 20}}
	for _, p := range patterns {
		b.Run(p.name, func(b *testing.B) {
			var r Recorder
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				x := rand.Uint64()
				for pb.Next() {
					x = x*6364136223846793005 + 1442695040888963407
					r.Touch(int64(x>>20)%p.span&^4095, p.length)
				}
			})
		})
	}
}

func BenchmarkStep(b *testing.B) {
	var r Recorder
	rng := rand.New(rand.NewPCG(1, 1))
	for b.Loop() {
		b.StopTimer()
		for range 5000 {
			r.Touch(rng.Int64N(1<<40)&^4095, 4096)
		}
		b.StartTimer()
		r.Step()
	}
}
