package forecast

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"cowl/internal/block/blocktest"
)

// workload writes what a volume's users write in one slot after another.
type workload func(slot int, write func(off, length int64))

const page = 4096

// workloads are what is tried, each made anew from a seed. All on a volume of
// 64 GiB.
var workloads = []struct {
	name string
	make func(rng *rand.Rand) workload
}{
	{"uniform", func(rng *rand.Rand) workload {
		span, rate := 1<<(10+rng.IntN(14)), 20+rng.IntN(400)
		return func(_ int, write func(off, length int64)) {
			for range rate {
				write(rng.Int64N(int64(span))*page, page)
			}
		}
	}},
	{"hot set", func(rng *rand.Rand) workload {
		pages := uint64(1) << (14 + rng.IntN(8))
		z, rate, stride := rand.NewZipf(rng, 1.05+rng.Float64()/2, 1, pages-1), 50+rng.IntN(400), int64(2*rng.IntN(1<<20)+1)
		return func(_ int, write func(off, length int64)) {
			for range rate {
				write(int64(z.Uint64())*stride%int64(pages)*page, page)
			}
		}
	}},
	{"sequential", func(rng *rand.Rand) workload {
		at, rate, length, size := rng.Int64N(1<<34), 1+rng.IntN(40), int64(64<<10)<<rng.IntN(5), int64(256<<20)<<rng.IntN(8)
		return func(_ int, write func(off, length int64)) {
			for range rate {
				write(at%size, length)
				at += length
			}
		}
	}},
	{"bursts", func(rng *rand.Rand) workload {
		span, rate := int64(1)<<(16+rng.IntN(8)), 200+rng.IntN(1500)
		on, off, left, busy := 2+rng.Float64()*20, 10+rng.Float64()*60, 0.0, false
		return func(_ int, write func(off, length int64)) {
			if left--; left <= 0 {
				busy = !busy
				if left = rng.ExpFloat64() * off; busy {
					left = rng.ExpFloat64() * on
				}
			}
			n := rng.IntN(8)
			if busy {
				n = rate
			}
			for range n {
				write(rng.Int64N(span)*page, page)
			}
		}
	}},
	{"file system", func(rng *rand.Rand) workload {
		journal, at := int64(64<<20), int64(0)
		files, z := int64(20000), rand.NewZipf(rng, 1.2, 4, 19999)
		rate := 1 + rng.IntN(30)
		return func(slot int, write func(off, length int64)) {
			for range rate {
				file := int64(z.Uint64()) * 7919 % files
				write(1<<30+file<<20+rng.Int64N(64)<<14, page<<rng.IntN(5))
				write(256<<20+file/16*page, page) // its inode
			}
			if slot%5 == 0 { // the journal's commit
				n := int64(rate) * 12 << 10
				write((1<<35)+at%journal, n)
				at += n
			}
		}
	}},
	{"drifting rate", func(rng *rand.Rand) workload {
		span, rate := int64(1)<<(18+rng.IntN(6)), 100.0
		return func(_ int, write func(off, length int64)) {
			rate = min(1500, max(5, rate*math.Exp(rng.NormFloat64()*0.03)))
			for range int(rate) {
				write(rng.Int64N(span)*page, page)
			}
		}
	}},
}

const volumeBytes = 64 << 30

// trial is one forecast beside what came then.
type trial struct {
	workload string
	part     float64 // how long was watched, by the time asked for
	a        Advice
	truth    Counts
}

// sufficed reports whether a store of the advised size and chunk would have held.
func (x *trial) sufficed() bool { return x.excess() >= 1 }

// excess is the advised size by what was needed.
func (x *trial) excess() float64 {
	n := x.a.Take()
	need := cowBytes(max(1, x.truth[x.a.Best]), n.ChunkBytes, volumeBytes, 1)
	return float64(n.Cow) / float64(need)
}

// parts are for how long is watched, in times of what is asked for.
var parts = []float64{1.0 / 32, 1.0 / 8, 0.5, 1, 2, 4, 8}

// try watches a workload, and then looks whether what was said came true.
func try(name string, load workload, slots int) (out []trial) {
	var r Recorder
	most := parts[len(parts)-1]
	var advice []trial
	slot := 0
	// What is asked about is always the same stretch, so that all begin their
	// watching before it.
	total := int(most * float64(slots))
	recorders := make([]*Recorder, len(parts))
	for ; slot < total; slot++ {
		for i, p := range parts {
			if slot == total-int(p*float64(slots)) {
				recorders[i] = &Recorder{}
			}
		}
		load(slot, func(off, length int64) {
			for _, r := range recorders {
				if r != nil {
					r.Touch(off, length)
				}
			}
		})
		for _, r := range recorders {
			if r != nil {
				r.Step()
			}
		}
	}
	for end := slot + slots; slot < end; slot++ {
		load(slot, r.Touch)
		r.Step()
	}
	p := r.Pattern()
	truth := p.Windows[len(p.Windows)-1].Samples[0].Count // to 2 %, see TestRecorderEstimatesTheRest
	for i, r := range recorders {
		a := Advise(r.Pattern(), time.Duration(slots)*Slot, volumeBytes, 4<<20)
		advice = append(advice, trial{name, parts[i], a, truth})
	}
	return advice
}

// TestAdviceComesTrue replays patterns and counts how often the advised size
// would have done, and how much too large it was. The table that it prints is
// the one of docs/advise.md.
func TestAdviceComesTrue(t *testing.T) {
	rounds, lengths := 4, []int{60}
	if blocktest.Long() {
		rounds, lengths = 12, []int{60, 300}
	}
	var all []trial
	for _, w := range workloads {
		for round := range rounds {
			for _, slots := range lengths {
				rng := rand.New(rand.NewPCG(uint64(round), uint64(slots)))
				all = append(all, try(w.name, w.make(rng), slots)...)
			}
		}
	}
	t.Log("\n" + tabulate(all, "watched / asked for", func(x *trial) string { return fmt.Sprintf("%5.2f", x.part) }))
	t.Log("\n" + tabulate(all, "confidence", func(x *trial) string { return x.a.Estimate.Confidence.String() }))
	t.Log("\n" + tabulate(all, "workload", func(x *trial) string { return x.workload }))
	t.Log("\n" + tabulate(all, "chunk", func(x *trial) string { return x.workload + fmt.Sprintf(" %3dk", x.a.Take().ChunkBytes>>10) }))
	for grade, least := range map[Confidence]float64{Good: 0.9, Fair: 0.85} {
		held, n := 0, 0
		for i := range all {
			if x := &all[i]; x.a.Estimate.Confidence == grade {
				n++
				if x.sufficed() {
					held++
				}
			}
		}
		if n < 20 || float64(held) < least*float64(n) {
			t.Errorf("confidence %v: %d of %d were enough", grade, held, n)
		}
	}
}

// tabulate counts trials by a key.
func tabulate(all []trial, title string, key func(*trial) string) string {
	by := map[string][]*trial{}
	for i := range all {
		k := key(&all[i])
		by[k] = append(by[k], &all[i])
	}
	var keys []string
	for k := range by {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var b strings.Builder
	fmt.Fprintf(&b, "%-22s trials  enough  size by need: median  9 of 10 below  worst\n", title)
	for _, k := range keys {
		var excess []float64
		held := 0
		for _, x := range by[k] {
			excess = append(excess, x.excess())
			if x.sufficed() {
				held++
			}
		}
		slices.Sort(excess)
		n := len(excess)
		fmt.Fprintf(&b, "%-22s %6d  %5.1f%%  %20.2f  %14.2f  %5.2f\n", k, n, 100*float64(held)/float64(n), excess[n/2], excess[n*9/10], excess[0])
	}
	return b.String()
}
