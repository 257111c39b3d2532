package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/snap"
)

// merges is how fast snapshots were merged that differ from their origins in
// scattered chunks: as cowl does it, and one chunk at a time as the kernel does,
// by the same engine on the same files.
type merges struct {
	ChunkKiB, Chunks int
	Target           int       // times one at a time, 0 if none is set
	Areas, Single    []float64 // exceptions a second, by round
	AreasFlushes     float64   // flushes an exception
	SingleFlushes    float64
}

// mergeLoads are the snapshots: so many chunks of a size. The first is that of
// which the kernel's time is known. Large chunks have no target: there the disk's
// speed is the limit, and no longer its flushes.
var mergeLoads = []struct{ chunkKiB, chunks, target int }{{4, 2000, 10}, {64, 500, 0}}

// mergeSpread keeps the chunks of an origin apart, so that none is its
// neighbour's, in chunks.
const mergeSpread = 4

// measureMerges merges, in turn, in either way.
func (b *bench) measureMerges() error {
	for _, load := range mergeLoads {
		m := merges{ChunkKiB: load.chunkKiB, Chunks: load.chunks, Target: load.target}
		if b.quick {
			m.Chunks /= 10
		}
		for round := range b.rounds {
			for i := range 2 {
				single := (i+round)%2 == 1
				b.progress("round %d/%d, merge of %d chunks of %d KiB", round+1, b.rounds, m.Chunks, m.ChunkKiB)
				if err := b.mergeOnce(&m, single); err != nil {
					return fmt.Errorf("merge: %w", err)
				}
			}
			if b.ctx.Err() != nil {
				return b.ctx.Err()
			}
		}
		b.results.Merges = append(b.results.Merges, m)
	}
	b.progress("")
	return nil
}

// flushCounter counts flushes on their way.
type flushCounter struct {
	block.Device
	n int
}

func (d *flushCounter) Flush() error {
	d.n++
	return d.Device.Flush()
}

// mergeOnce makes a snapshot that differs, merges it, and adds what that took.
func (b *bench) mergeOnce(m *merges, single bool) (err error) {
	chunk := int64(m.ChunkKiB) * kib
	size := int64(m.Chunks) * mergeSpread * chunk
	base, err := b.filled("merge.base", size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, base.Close()) }()
	cow, err := b.filled("merge.cow", 2*size/mergeSpread+64*chunk)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cow.Close()) }()
	disk, store := &flushCounter{Device: base}, &flushCounter{Device: cow}
	o, s, err := differing(disk, store, m.Chunks, chunk)
	if err != nil {
		return err
	}
	if err := o.StartMerge(s, size); err != nil {
		return err
	}
	if single {
		o.LimitMergeStep(chunk)
	}
	disk.n, store.n = 0, 0
	began := time.Now()
	for left := 1; left > 0 && b.ctx.Err() == nil; {
		if left, err = o.MergeStep(); err != nil {
			return err
		}
	}
	rate := float64(m.Chunks) / time.Since(began).Seconds()
	flushes := float64(disk.n+store.n) / float64(m.Chunks)
	if single {
		m.Single, m.SingleFlushes = append(m.Single, rate), flushes
	} else {
		m.Areas, m.AreasFlushes = append(m.Areas, rate), flushes
	}
	return b.ctx.Err()
}

// filled makes a file of random bytes, all of it on the disk.
func (b *bench) filled(name string, size int64) (*file.Device, error) {
	d, err := file.Create(b.path(name), size)
	if err != nil {
		return nil, err
	}
	// The name goes at once, so that the next round can make the file anew.
	if err := os.Remove(b.path(name)); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	rng := rand.NewChaCha8([32]byte{seed & 0xff})
	piece := make([]byte, mib)
	for off := int64(0); off < size; off += mib {
		rng.Read(piece)
		if _, err := d.WriteAt(piece[:min(mib, size-off)], off); err != nil {
			return nil, errors.Join(err, d.Close())
		}
	}
	return d, d.Flush()
}

// differing returns an origin with the store of a snapshot in which so many
// chunks are others, at random places and in random order.
func differing(disk, cow block.Device, chunks int, chunk int64) (*snap.Origin, *snap.Store, error) {
	if err := snap.Format(cow, chunk); err != nil {
		return nil, nil, err
	}
	s, err := snap.Open(cow, snap.Options{})
	if err != nil {
		return nil, nil, err
	}
	o := snap.NewOrigin(disk, snap.OriginOptions{})
	n, err := o.Attach(s, disk.Size(), false)
	if err != nil {
		return nil, nil, err
	}
	p := make([]byte, chunk)
	for _, i := range rand.New(rand.NewPCG(seed, 0)).Perm(chunks) {
		p[0] = byte(i) | 1
		if _, err := n.WriteAt(p, int64(i)*mergeSpread*chunk); err != nil {
			return nil, nil, err
		}
	}
	return o, s, errors.Join(n.Flush(), o.Flush())
}

// printMerges writes the table for people.
func (r *results) printMerges(to io.Writer) {
	if len(r.Merges) == 0 {
		return
	}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "\nmerge, exceptions/s\tcowl\tMiB/s\tflushes each\tone at a time\tMiB/s\tflushes each\tratio\trange\ttarget\n")
	for _, m := range r.Merges {
		mibs := func(rates []float64) float64 { return median(rates) * float64(m.ChunkKiB) * kib / mib }
		var ratios []float64
		for i := range min(len(m.Areas), len(m.Single)) {
			ratios = append(ratios, m.Areas[i]/m.Single[i])
		}
		fmt.Fprintf(w, "%d scattered chunks of %d KiB\t%.0f\t%.0f\t%.3f\t%.0f\t%.0f\t%.2f\t%.1f\t%.1f to %.1f\t%s\n", m.Chunks, m.ChunkKiB,
			median(m.Areas), mibs(m.Areas), m.AreasFlushes, median(m.Single), mibs(m.Single), m.SingleFlushes,
			median(ratios), slices.Min(ratios), slices.Max(ratios), m.verdict(ratios))
	}
	w.Flush()
}

// verdict says whether the target was reached, in the words of the other ratios.
func (m *merges) verdict(ratios []float64) string {
	target := float64(m.Target)
	switch least, most := slices.Min(ratios), slices.Max(ratios); {
	case m.Target == 0:
		return "none"
	case most < target:
		return fmt.Sprintf("%d MISSED", m.Target)
	case least < target || len(ratios) == 1:
		return fmt.Sprintf("%d unclear", m.Target)
	}
	return fmt.Sprintf("%d reached", m.Target)
}
