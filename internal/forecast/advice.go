package forecast

import (
	"time"

	"cowl/internal/volume"
)

// Horizon is how long a snapshot is thought to live when nobody says so.
const Horizon = time.Hour

// Need is what a snapshot with chunks of one size needs. Numbers of chunks are
// of those that will be copied, sizes in bytes.
type Need struct {
	ChunkBytes        int64
	Low, Likely, High int64

	// Cow is the COW store that High needs: header, metadata areas and data,
	// in whole extents, at most as large as can be of use.
	Cow int64
	// LikelyCow is the same for Likely.
	LikelyCow int64
}

// Advice is how large a snapshot should be.
type Advice struct {
	For      time.Duration
	Estimate Estimate
	Needs    [Sizes]Need
	Best     int // of Needs: the chunk size to take
}

// perChunk is what copying one more chunk costs, in bytes that are copied in
// the same time: finding and entering it, and two requests to disks. With cowl's
// engine it was measured as about 60 KiB (docs/advise.md). Half of that is taken,
// since a byte that is copied also takes space. A spinning disk would say a
// hundred times as much.
const perChunk = 32 << 10

// worthwhile is how much cheaper another chunk size has to be than LVM2's
// default to be advised.
const worthwhile = 0.75

// leastData is what a store should hold at the least, bytes: of a volume on which
// nothing was written so far, something may be.
const leastData = 1 << 20

// Advise computes what a snapshot of a volume of size bytes needs that lives
// for d. In a group with extents of so many bytes.
func Advise(p *Pattern, d time.Duration, size, extent int64) Advice {
	a := Advice{For: d, Estimate: p.After(d)}
	for i := range a.Needs {
		chunk := ChunkBytes(i)
		all := (size + chunk - 1) / chunk
		n := Need{
			ChunkBytes: chunk,
			Low:        min(a.Estimate.Low[i], all), Likely: min(a.Estimate.Likely[i], all), High: min(a.Estimate.High[i], all),
		}
		n.Cow = cowBytes(max(n.High, leastData/chunk), chunk, size, extent)
		n.LikelyCow = cowBytes(n.Likely, chunk, size, extent)
		a.Needs[i] = n
		if i > 0 && n.cost() < a.Needs[a.Best].cost() {
			a.Best = i
		}
	}
	if a.Needs[a.Best].cost() > worthwhile*a.Needs[0].cost() {
		a.Best = 0
	}
	return a
}

// Take returns the need of the chunk size to take.
func (a Advice) Take() Need { return a.Needs[a.Best] }

// cost weighs what is copied and stored, and what each chunk takes besides, in
// bytes. Small chunks copy less where writes are scattered, large ones have
// less to do where they are not.
func (n *Need) cost() float64 {
	return float64(n.Likely) * float64(n.ChunkBytes+perChunk)
}

// cowBytes returns the size of a COW store for so many chunks of a volume, one
// at least, in whole extents, as large as can be of use at most.
func cowBytes(chunks, chunk, size, extent int64) int64 {
	sectors := volume.Sectors(chunk / 512)
	need := min(volume.CowMax(max(1, chunks)*chunk, sectors), volume.CowMax(max(1, size), sectors))
	return (need + extent - 1) / extent * extent
}
