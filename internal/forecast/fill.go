package forecast

import (
	"math"
	"slices"
	"time"
)

// Never is the time in which a store that does not fill will be full.
const Never time.Duration = math.MaxInt64

// Fill is how a COW store has filled since its owner began to tell. The zero
// Fill knows nothing. It is not safe for parallel use.
type Fill struct {
	points []fillPoint // in order of time, ever further apart the older
}

type fillPoint struct {
	at   time.Time
	used int64
}

// fillPoints bounds the history, fewestPoints is how many it takes to say
// something, and leastLife how long to say that nothing happens.
const (
	fillPoints   = 64
	fewestPoints = 5
	leastLife    = time.Minute
)

// Add notes how many bytes of the store are used. A store in which less is used
// than before is a new one.
func (f *Fill) Add(at time.Time, used int64) {
	if n := len(f.points); n > 0 {
		last := f.points[n-1]
		if !at.After(last.at) {
			return
		}
		if used < last.used {
			f.points = f.points[:0]
		}
	}
	if len(f.points) == fillPoints {
		f.thin()
	}
	f.points = append(f.points, fillPoint{at, used})
}

// thin drops the point that is missed least: whose neighbours are closest to
// each other, compared with how long ago it was. So whatever the store's age, each
// doubling of the time that one looks back finds as many points.
func (f *Fill) thin() {
	n := len(f.points)
	now := f.points[n-1].at
	worst, least := 1, math.MaxFloat64
	for i := 1; i < n-1; i++ {
		gap := f.points[i+1].at.Sub(f.points[i-1].at)
		if weight := float64(gap) / float64(now.Sub(f.points[i].at)); weight < least {
			worst, least = i, weight
		}
	}
	f.points = slices.Delete(f.points, worst, worst+1)
}

// TimeToFull estimates when the store of total bytes will be full, from the
// last time that was told of: as long as it took to use as many bytes as are
// left, looking back. So a burst counts as much as it filled, no more. A store
// that has not used so much yet is taken to go on as it did in the latter half
// of its life, since the first is when much is copied that is written again and again.
//
// known is false while there is too little to go by.
func (f *Fill) TimeToFull(total int64) (d time.Duration, known bool) {
	n := len(f.points)
	if n < fewestPoints {
		return 0, false
	}
	now := f.points[n-1]
	left := total - now.used
	if left <= 0 {
		return 0, true
	}
	for i := n - 2; i >= 0; i-- {
		if p := f.points[i]; now.used-p.used >= left {
			// Between this point and the next.
			q := f.points[i+1]
			part := float64(now.used-left-p.used) / float64(q.used-p.used)
			return now.at.Sub(p.at) - time.Duration(part*float64(q.at.Sub(p.at))), true
		}
	}
	life := now.at.Sub(f.points[0].at)
	grown, in := now.used-f.usedAt(now.at.Add(-life/2)), life/2
	if grown <= 0 {
		grown, in = now.used-f.points[0].used, life
	}
	if grown <= 0 {
		return Never, life >= leastLife
	}
	wait := float64(in) * float64(left) / float64(grown)
	if wait > float64(maxWatched) {
		return maxWatched, true
	}
	return time.Duration(wait), true
}

// usedAt returns what was used at a time of the store's life.
func (f *Fill) usedAt(at time.Time) int64 {
	for i := len(f.points) - 2; i >= 0; i-- {
		p, q := f.points[i], f.points[i+1]
		if !p.at.After(at) {
			part := float64(at.Sub(p.at)) / float64(q.at.Sub(p.at))
			return p.used + int64(part*float64(q.used-p.used))
		}
	}
	return f.points[0].used
}
