package backup

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"cowl/internal/errs"
)

// Retention says which backups of a volume are kept. Each rule keeps the
// latest backup of each of the latest periods that have one; a backup is kept
// if any rule keeps it.
type Retention struct {
	Last, Hourly, Daily, Weekly, Monthly, Yearly int
	// Within keeps all that are not older than this, before the latest.
	Within time.Duration
}

// Check refuses rules that keep nothing, by which everything would be
// forgotten.
func (r Retention) Check() error {
	if r.Last < 0 || r.Hourly < 0 || r.Daily < 0 || r.Weekly < 0 || r.Monthly < 0 || r.Yearly < 0 || r.Within < 0 {
		return errs.E(errs.Usage, "A rule cannot keep less than none.")
	}
	if r == (Retention{}) {
		return errs.E(errs.Usage, "No rule says what to keep.")
	}
	return nil
}

// Keep decides about the backups of one volume, by their times in any order. Of
// those of one time the last that is given is the latest.
// It returns, for each, by which rules it is kept; one without any is to be
// forgotten. Periods are those of the times' locations.
func (r Retention) Keep(times []time.Time) [][]string {
	order := make([]int, len(times)) // latest first
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Or(times[b].Compare(times[a]), b-a) })
	kept := make([][]string, len(times))
	for _, rule := range r.rules() {
		last, n := "", 0
		for i, at := range order {
			period := rule.period(times[at], i)
			if n == rule.n {
				break
			}
			if i == 0 || period != last {
				last = period
				n++
				kept[at] = append(kept[at], rule.name)
			}
		}
	}
	if r.Within > 0 && len(order) > 0 {
		for _, at := range order {
			if times[order[0]].Sub(times[at]) <= r.Within {
				kept[at] = append(kept[at], "within")
			}
		}
	}
	return kept
}

// rule keeps the latest backup of each of n periods.
type rule struct {
	name   string
	n      int
	period func(t time.Time, i int) string // i counts from the latest
}

func (r Retention) rules() []rule {
	form := func(layout string) func(time.Time, int) string {
		return func(t time.Time, _ int) string { return t.Format(layout) }
	}
	return []rule{
		{"last", r.Last, func(_ time.Time, i int) string { return fmt.Sprint(i) }},
		{"hourly", r.Hourly, form("2006-01-02 15 -0700")},
		{"daily", r.Daily, form("2006-01-02")},
		{"weekly", r.Weekly, func(t time.Time, _ int) string { y, w := t.ISOWeek(); return fmt.Sprint(y, w) }},
		{"monthly", r.Monthly, form("2006-01")},
		{"yearly", r.Yearly, form("2006")},
	}
}
