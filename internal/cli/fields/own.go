package fields

import (
	"math"
	"strconv"
	"time"

	"cowl/internal/cli/report"
	"cowl/internal/forecast"
	"cowl/internal/manager"
)

// ownFields are columns that LVM2 does not have. They are not in "all", which
// is LVM2's.
func ownFields() []*field {
	return []*field{
		{Name: "time_to_full", Heading: "FullIn", Width: 6, Kind: report.Number,
			Help: "Of an active snapshot, when it will be full if it goes on as it did; in seconds with --nosuffix.",
			Get:  onLV(undefined, timeToFull)},
		{Name: "merge_rate", Heading: "MergeRate", Width: 9, Kind: report.Size,
			Help: "How much of a snapshot is merged a second at most; empty if there is no bound.",
			Get:  onLV(undefined, mergeRate)},
		{Name: "on_full", Heading: "OnFull", Width: 10,
			Help: "Of an active snapshot, what becomes of it when it is full and there is no space: invalidate, hold or readonly.",
			Get:  onLV(blank, onCow(blank, func(c *manager.CowStatus) report.Value { return report.Str(c.OnFull) }))},
		{Name: "autoextend_threshold", Heading: "Extend%", Width: 7, Kind: report.Number,
			Help: "Of an active snapshot, at how many percent it is extended; empty if it is not.",
			Get:  onLV(undefined, onCow(undefined, extendsAt))},
		{Name: "waiting_writes", Heading: "Waiting", Width: 7, Kind: report.Number,
			Help: "Of an active snapshot, how many writes wait for space in it.",
			Get:  onLV(undefined, onCow(undefined, func(c *manager.CowStatus) report.Value { return report.Int(c.Holding) }))},
		{Name: "short_of_space", Heading: "Short",
			Help: "Of an active snapshot, why it could not be extended when it had to be.",
			Get:  onLV(blank, onCow(blank, func(c *manager.CowStatus) report.Value { return report.Str(c.Short) }))},
	}
}

// onCow makes a value of what an active snapshot's own store says.
func onCow(otherwise report.Value, f func(*manager.CowStatus) report.Value) func(Row) report.Value {
	return func(r Row) report.Value {
		if s := r.state(); s != nil && s.Cow != nil {
			return f(s.Cow)
		}
		return otherwise
	}
}

func extendsAt(c *manager.CowStatus) report.Value {
	if c.Threshold == 0 {
		return undefined
	}
	return report.Int(c.Threshold)
}

func timeToFull(r Row) report.Value {
	s := r.state()
	if s == nil || s.Cow == nil || s.Cow.FullIn == nil {
		return undefined
	}
	switch d := *s.Cow.FullIn; {
	case d == forecast.Never:
		return report.Num(math.Inf(1), FullInText(d))
	case r.env.Sizes.NoSuffix:
		return report.Int(int64(d / time.Second))
	default:
		return report.Num(d.Seconds(), FullInText(d))
	}
}

func mergeRate(r Row) report.Value {
	if rate := r.LV.MergeRate(); rate > 0 {
		return r.size(rate)
	}
	return undefined
}

// FullInText shows when a store will be full.
func FullInText(d time.Duration) string {
	const long = 100 * 24 * time.Hour
	switch {
	case d == forecast.Never:
		return "never"
	case d >= long: // nobody knows the hours
		return strconv.Itoa(int(d/(24*time.Hour))) + "d"
	}
	return manager.DurationText(d)
}
