package main

import "slices"

// ratio is a promise: one server's rate over another's at one job. Promises
// of the form "at most so much slower" have the bound turned over.
type ratio struct {
	of, to, job string
	atLeast     float64
}

// ratios are what the project set out to reach on 2 cores.
var ratios = []ratio{
	{"cowl", "nbdkit file", "rr32", 1.5},
	{"cowl", "qemu-nbd raw", "rr32", 4},
	{"cowl", "nbdkit file", "fw32", 1.2},
	{"cowl", "nbdkit file", "rw32", 1.2},
	{"cowl 1 snapshot 4k", "qemu copy-before-write", "fwf32", 3},
	{"cowl 1 snapshot 4k", "qemu-nbd qcow2+snapshot", "fwf32", 10},
	{"cowl 1 snapshot 4k", "raw io_uring", "fwf32", 0.5},
	{"cowl 1 snapshot 64k", "qemu copy-before-write", "fwf32", 1.5},
	{"cowl 1 snapshot 4k", "qemu copy-before-write", "seqw", 2},
	{"cowl 1 snapshot 64k", "qemu copy-before-write", "seqw", 2},
	{"cowl 1 snapshot 4k", "cowl", "fw1", 1. / 2},
	{"cowl 1 snapshot 4k", "cowl", "fw32", 1. / 2},
	{"cowl 1 snapshot 4k", "cowl", "fwe1", 1. / 2},
	{"cowl 1 snapshot 4k", "cowl", "fwe32", 1. / 2},
	{"cowl 8 snapshots 4k", "cowl", "fw1", 1. / 5},
	{"cowl 8 snapshots 4k", "cowl", "fw32", 1. / 5},
	{"cowl 8 snapshots 4k", "cowl", "fwe1", 1. / 5},
	{"cowl 8 snapshots 4k", "cowl", "fwe32", 1. / 5},
	{"cowl 1 snapshot 4k", "cowl", "rw1", 0.95},
	{"cowl 1 snapshot 4k", "cowl", "rw32", 0.95},
}

// measuredRatio is what became of one: the median of the rounds' ratios, and
// the least and greatest of them.
type measuredRatio struct {
	Of, To, Job             string
	AtLeast                 float64
	Median, Least, Greatest float64
	Rounds                  int
}

// compare computes the promises whose both sides were measured. A round's two
// rates were measured seconds apart, so that they share the machine's mood.
func (r *results) compare() {
	for _, p := range ratios {
		of, to := r.Measured[p.of][p.job], r.Measured[p.to][p.job]
		if of == nil || to == nil {
			continue
		}
		var list []float64
		for i := range min(len(of.Rate), len(to.Rate)) {
			list = append(list, of.Rate[i]/to.Rate[i])
		}
		m := measuredRatio{Of: p.of, To: p.to, Job: p.job, AtLeast: p.atLeast,
			Median: median(list), Least: slices.Min(list), Greatest: slices.Max(list), Rounds: len(list)}
		r.Ratios = append(r.Ratios, m)
	}
}

// verdict says whether a promise was kept. One round, or rounds on both sides
// of the target, tell nothing.
func (m measuredRatio) verdict() string {
	switch {
	case m.Rounds < 2 || m.Least < m.AtLeast && m.Greatest >= m.AtLeast:
		return "unclear"
	case m.Least >= m.AtLeast:
		return "reached"
	}
	return "MISSED"
}
