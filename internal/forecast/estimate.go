package forecast

import (
	"math"
	"time"
)

// Confidence says how far an estimate can be trusted.
type Confidence uint8

// The grades, from what the estimate rests on.
const (
	None  Confidence = iota // nothing is known
	Guess                   // a small part of the time asked for was watched, or writes are known roughly
	Poor                    // an eighth of it at least
	Fair                    // as long at least
	Good                    // four times as long at least, and the writes were steady
)

var confidenceNames = [...]string{"none", "guess", "poor", "fair", "good"}

// String returns the grade in a word.
func (c Confidence) String() string { return confidenceNames[c] }

// MarshalText implements encoding.TextMarshaler.
func (c Confidence) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Estimate is how many different chunks will be written to in a time.
type Estimate struct {
	// Low and High are where the number will be in all but a few cases, on
	// either side; Likely is the mean.
	Low, Likely, High Counts

	Confidence Confidence
	Windows    int     // how many times the time asked for was watched, 0 if it was not watched once
	Spread     float64 // how much windows of that length differ: their standard deviation by their mean
	Rough      bool    // the counts it rests on are bounds that lie far apart
}

// Thresholds of the grades.
const (
	goodWindows = 4
	steady      = 0.3 // the largest Spread for Good
	unsteady    = 1.0 // from here on one grade less
	poorPart    = 8
	farApart    = 1.5 // bounds by their middle that make it Rough
)

// Spreads that are assumed, because too few windows were seen to know better,
// and because the future is never quite as the past.
const (
	unknownSpread = 1.0
	leastSpread   = 0.04
)

// After estimates what will be written in a time to come. Without any knowledge it
// is None, with zero counts.
func (p *Pattern) After(d time.Duration) Estimate {
	if p == nil || len(p.Windows) == 0 || p.Slot <= 0 {
		return Estimate{}
	}
	t := max(1, float64(d)/float64(p.Slot))
	e := Estimate{Windows: int(float64(p.Slots) / t)}
	spread, n := p.spread(t)
	e.Spread = spread
	margin := studentT(n-1) * spread * math.Sqrt(1+1/float64(max(1, n)))
	for size := range Sizes {
		likely := p.curve(size, (*Sample).count).at(t, false)
		least := p.curve(size, (*Sample).least).at(t, false)
		most := p.curve(size, (*Sample).most).at(t, true)
		noise := 1 + 2*p.noise(t)
		high := max(most*(1+margin), p.busiest(size, t)) * noise
		low := least * max(0, 1-margin) / noise
		e.Likely[size] = toCount(likely + 0.5)
		e.Low[size], e.High[size] = min(toCount(low), e.Likely[size]), max(toCount(math.Ceil(high)), e.Likely[size])
		e.Rough = e.Rough || most > farApart*likely && p.bounded()
	}
	e.Confidence = p.grade(t, e)
	return e
}

// toCount returns a number of chunks that a volume may have.
func toCount(n float64) int64 { return int64(max(0, min(maxCount, n))) }

func (p *Pattern) grade(t float64, e Estimate) Confidence {
	c := Guess
	switch watched := float64(p.Slots); {
	case watched >= goodWindows*t && e.Spread <= steady:
		c = Good
	case watched >= t:
		c = Fair
	case watched*poorPart >= t:
		c = Poor
	}
	if c > Guess && e.Spread > unsteady {
		c--
	}
	if e.Rough {
		c = Guess
	}
	return c
}

// count is the middle of a sample.
func (s *Sample) count(size int) int64 { return s.Count[size] }

// bounded reports whether the latest samples are bounds.
func (p *Pattern) bounded() bool {
	s := p.Windows[0].Samples
	return s[len(s)-1].Most != nil
}

// point is the mean of what was seen in windows of a length.
type point struct{ slots, mean float64 }

// curve returns the mean number of chunks over the length of time.
func (p *Pattern) curve(size int, of func(*Sample, int) int64) curve {
	var c curve
	for i := range p.Windows {
		w := &p.Windows[i]
		sum := 0.0
		for k := range w.Samples {
			sum += float64(of(&w.Samples[k], size))
		}
		c = append(c, point{float64(w.Slots), sum / float64(len(w.Samples))})
	}
	return c
}

// curve is a mean over time. It is concave where the pattern does not change: the
// longer a window, the more of what is written in it was written before.
type curve []point

// at returns the curve's height at a time. Between two lengths, and behind the
// last one, it goes on as a power of time does. That overestimates a working
// set that is about to be complete; upper goes on in a straight line, which
// overestimates everything that is concave.
func (c curve) at(t float64, upper bool) float64 {
	last := len(c) - 1
	if last == 0 || t <= c[0].slots {
		return c[0].mean * t / c[0].slots
	}
	i := 0
	for i < last-1 && c[i+1].slots <= t {
		i++
	}
	a, b := c[i], c[i+1]
	if t <= b.slots || !upper {
		return a.power(b, t)
	}
	slope := max(0, b.mean-a.mean) / (b.slots - a.slots)
	return b.mean + slope*(t-b.slots)
}

// power returns the height at t of the power of time through two points. It
// rises, and not faster than time.
func (a point) power(b point, t float64) float64 {
	if a.mean <= 0 {
		return b.mean * min(1, t/b.slots) // nothing at first, or nothing at all
	}
	exponent := math.Log(b.mean/a.mean) / math.Log(b.slots/a.slots)
	if t > b.slots {
		return b.mean * math.Pow(t/b.slots, min(1, max(0, exponent)))
	}
	return a.mean * math.Pow(t/a.slots, exponent)
}

// busiest returns the most that was seen in a window of about the length, as
// much longer as t is.
func (p *Pattern) busiest(size int, t float64) float64 {
	w := &p.Windows[0]
	for i := range p.Windows {
		if float64(p.Windows[i].Slots) <= t {
			w = &p.Windows[i]
		}
	}
	top := 0.0
	for i := range w.Samples {
		top = max(top, float64(w.Samples[i].most(size)))
	}
	c := p.curve(size, (*Sample).most)
	if here := c.at(float64(w.Slots), false); here > 0 {
		top *= max(1, c.at(t, false)/here)
	}
	return top
}

// noise returns the error of the counts themselves.
func (p *Pattern) noise(t float64) float64 {
	worst := float32(0)
	for i := range p.Windows {
		if w := &p.Windows[i]; i == 0 || float64(w.Slots) <= t {
			worst = w.Samples[len(w.Samples)-1].Error
		}
	}
	return float64(worst)
}

// fewest is the smallest number of windows whose differences mean something.
const fewest = 4

// spread returns how much windows of the length t differ from each other, by
// their mean, and from how many windows that is known. If so long ones were not
// seen often enough, it is derived from shorter ones: they differ more, and
// how much more with each doubling is seen among them.
func (p *Pattern) spread(t float64) (spread float64, n int) {
	type level struct {
		slots, spread float64
		n             int
	}
	var seen []level
	for i := range p.Windows {
		w := &p.Windows[i]
		if s, ok := w.spread(); ok && (float64(w.Slots) <= 2*t || len(seen) == 0) {
			seen = append(seen, level{float64(w.Slots), s, len(w.Samples)})
		}
	}
	if len(seen) == 0 {
		return unknownSpread, fewest
	}
	last := seen[len(seen)-1]
	if t > last.slots {
		// Of windows that have nothing to do with each other the spread falls
		// by 1/sqrt(2) with each doubling; of a pattern whose phases are longer
		// than the windows, not at all.
		fall := -0.25
		if from := seen[max(0, len(seen)-4)]; from.slots < last.slots && from.spread > 0 && last.spread > 0 {
			fall = math.Log(last.spread/from.spread) / math.Log(last.slots/from.slots)
		}
		last.spread *= math.Pow(t/last.slots, min(0, max(-0.5, fall)))
	}
	return max(last.spread, leastSpread), last.n
}

// spread returns the standard deviation of 4 KiB chunks by their mean.
func (w *Window) spread() (float64, bool) {
	n := float64(len(w.Samples))
	if n < fewest {
		return 0, false
	}
	sum, squares := 0.0, 0.0
	for _, s := range w.Samples {
		sum += float64(s.Count[0])
	}
	mean := sum / n
	for _, s := range w.Samples {
		squares += (float64(s.Count[0]) - mean) * (float64(s.Count[0]) - mean)
	}
	if mean == 0 {
		return 0, true
	}
	return math.Sqrt(squares/(n-1)) / mean, true
}

// studentT returns how many standard deviations above the mean 95 % of values
// stay below, when mean and deviation are known from a few values.
func studentT(freedom int) float64 {
	table := [...]float64{6.31, 6.31, 2.92, 2.35, 2.13, 2.02, 1.94, 1.89, 1.86, 1.83, 1.81, 1.80, 1.78, 1.77, 1.76, 1.75}
	if freedom < len(table) {
		return table[max(0, freedom)]
	}
	return 1.70
}
