package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// results is everything that was measured, as -json prints it.
type results struct {
	Date                  string
	SizeMiB               int64
	Rounds, Scale         int
	LoadBefore, LoadAfter string
	Skipped               map[string]string              // server to the reason
	Measured              map[string]map[string]*samples // by server and job
	PeakKiB               map[string]int64               // by server, over all acts
	Ratios                []measuredRatio
	Counts                []counts
	Pauses                []pauses
	Merges                []merges
	Backups               []backups
	Sparse                *sparseRun
	Looking               []looking
}

// samples are one server's rounds of one job, in order.
type samples struct {
	Rate      []float64 // requests a second; MB/s if sequential
	CPUMicros []float64 `json:",omitempty"` // of the server, for each request
	Client    []float64 // percent of a core that fio took
}

func (r *results) add(server, job string, m measurement) {
	if r.Measured[server] == nil {
		r.Measured[server] = map[string]*samples{}
	}
	s := r.Measured[server][job]
	if s == nil {
		s = &samples{}
		r.Measured[server][job] = s
	}
	s.Rate = append(s.Rate, m.rate)
	s.Client = append(s.Client, m.client)
	if m.cpuMicros >= 0 {
		s.CPUMicros = append(s.CPUMicros, m.cpuMicros)
	}
}

func (r *results) addPeak(server string, kib int64) {
	r.PeakKiB[server] = max(r.PeakKiB[server], kib)
}

func median(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	n := len(list)
	if n == 0 {
		return 0
	}
	return (list[(n-1)/2] + list[n/2]) / 2
}

// print writes the tables for people.
func (r *results) print(to io.Writer) {
	fmt.Fprintf(to, "%s, %d MiB, %d rounds", r.Date, r.SizeMiB, r.Rounds)
	if r.Scale > 1 {
		fmt.Fprintf(to, ", 1/%d of the requests: a smoke test, not a measurement", r.Scale)
	}
	fmt.Fprintf(to, "\nload average before %s, after %s\n", r.LoadBefore, r.LoadAfter)
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	r.printMerges(to)
	r.printBackups(to)
	r.printLooking(to)
	if r.printPauses(to); len(r.Measured) == 0 {
		return
	}
	r.printRates(w)
	r.printCPU(w)
	r.printClient(w)
	r.printRatios(w)
	r.printCounts(w)
	w.Flush()
	for _, a := range acts {
		for _, j := range a.jobs {
			fmt.Fprintf(to, "%-6s %s\n", j.name, j.does)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Skipped)) {
		fmt.Fprintf(to, "skipped: %s: %s\n", name, r.Skipped[name])
	}
}

// table writes a row for each server and a column for each job.
func (r *results) table(w *tabwriter.Writer, title, last string, cell func(*samples) string, end func(server string) string) {
	fmt.Fprintf(w, "\n%s", title)
	for _, a := range acts {
		for _, j := range a.jobs {
			fmt.Fprintf(w, "\t%s", j.name)
		}
	}
	fmt.Fprintf(w, "%s\n", last)
	for _, s := range servers {
		if r.Measured[s.name] == nil {
			continue
		}
		fmt.Fprint(w, s.name)
		for _, a := range acts {
			for _, j := range a.jobs {
				text := "-"
				if m := r.Measured[s.name][j.name]; m != nil {
					text = cell(m)
				}
				fmt.Fprintf(w, "\t%s", text)
			}
		}
		fmt.Fprintf(w, "%s\n", end(s.name))
	}
	w.Flush()
}

func (r *results) printRates(w *tabwriter.Writer) {
	r.table(w, "medians, 1/s", "", func(m *samples) string { return short(median(m.Rate)) },
		func(string) string { return "" })
}

func (r *results) printCPU(w *tabwriter.Writer) {
	r.table(w, "server's CPU, µs a request", "\tpeak MiB",
		func(m *samples) string {
			if len(m.CPUMicros) == 0 {
				return "-"
			}
			return fmt.Sprintf("%.0f", median(m.CPUMicros))
		},
		func(server string) string {
			if kiB, ok := r.PeakKiB[server]; ok {
				return fmt.Sprintf("\t%d", kiB/kib)
			}
			return "\t-"
		})
}

// printClient tells how much of a core fio took: near 100 it is what limits, and
// no server can be faster.
func (r *results) printClient(w *tabwriter.Writer) {
	r.table(w, "client's CPU, % of a core", "", func(m *samples) string { return fmt.Sprintf("%.0f", median(m.Client)) },
		func(string) string { return "" })
}

func (r *results) printRatios(w *tabwriter.Writer) {
	if len(r.Ratios) == 0 {
		return
	}
	fmt.Fprint(w, "\nratio\tjob\ttarget\tmedian\trange\t\n")
	for _, m := range r.Ratios {
		fmt.Fprintf(w, "%s / %s\t%s\t%.2f\t%.2f\t%.2f to %.2f\t%s\n", m.Of, m.To, m.Job, m.AtLeast, m.Median, m.Least, m.Greatest, m.verdict())
	}
	w.Flush()
}

func (r *results) printCounts(w *tabwriter.Writer) {
	if len(r.Counts) == 0 {
		return
	}
	fmt.Fprint(w, "\ndevice operations a request\tjob\treads\twrites\tflushes\tKiB read\tKiB written\n")
	for _, c := range r.Counts {
		fmt.Fprintf(w, "%s\t%s\t%.3f\t%.3f\t%.4f\t%.1f\t%.1f\n", c.Server, c.Job, c.Reads, c.Writes, c.Flushes, c.ReadKiB, c.WriteKiB)
	}
	w.Flush()
}

// short writes a rate with three digits that matter.
func short(v float64) string {
	switch {
	case v >= 99_950:
		return fmt.Sprintf("%.0fk", v/1000)
	case v >= 9_995:
		return fmt.Sprintf("%.1fk", v/1000)
	case v >= 1000:
		return fmt.Sprintf("%.2fk", v/1000)
	}
	return fmt.Sprintf("%.0f", v)
}
