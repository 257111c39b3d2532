package backup

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"cowl/internal/errs"
)

func TestRetention(t *testing.T) {
	at := func(s string) time.Time {
		t.Helper()
		v, err := time.Parse("2006-01-02 15:04", s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	times := []time.Time{
		at("2025-12-31 23:00"), at("2026-01-01 01:00"), at("2026-01-30 02:00"), at("2026-02-01 02:00"), // Thu, Thu, Fri, Sun
		at("2026-02-02 02:00"), at("2026-02-02 14:05"), at("2026-02-02 14:55"), at("2026-02-03 02:00"), // Mon, Mon, Mon, Tue
	}
	for _, c := range []struct {
		r    Retention
		want string // rules by backup, oldest first; - for none
	}{
		{Retention{Last: 2}, "- - - - - - last last"},
		{Retention{Hourly: 3}, "- - - - hourly - hourly hourly"},
		{Retention{Daily: 3}, "- - - daily - - daily daily"},
		{Retention{Weekly: 3}, "- weekly - weekly - - - weekly"},
		{Retention{Monthly: 3}, "monthly - monthly - - - - monthly"},
		{Retention{Yearly: 9}, "yearly - - - - - - yearly"},
		{Retention{Last: 1, Daily: 2}, "- - - - - - daily last+daily"},
		{Retention{Within: 24 * time.Hour}, "- - - - within within within within"},
		{Retention{Last: 99}, "last last last last last last last last"},
	} {
		var got []string
		for _, k := range c.r.Keep(times) {
			text := strings.Join(k, "+")
			if text == "" {
				text = "-"
			}
			got = append(got, text)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v:\n got %s\nwant %s", c.r, strings.Join(got, " "), c.want)
		}
	}
	// A snapshot's time is in whole seconds.
	if got := (Retention{Last: 1}).Keep([]time.Time{times[1], times[1], times[0]}); len(got[0]) > 0 || len(got[1]) == 0 {
		t.Errorf("of two backups of one second the first that is given is kept: %q", got)
	}
	for _, r := range []Retention{{}, {Last: -1}, {Last: 2, Daily: -1}} {
		if err := r.Check(); !errs.Is(err, errs.Usage) {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

// Whatever the rules, the latest backup is kept, the order of the list does
// not matter, and forgetting twice forgets nothing more.
func TestRetentionLaws(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 0))
	for range 300 {
		r := Retention{rng.IntN(4), rng.IntN(4), rng.IntN(4), rng.IntN(4), rng.IntN(4), rng.IntN(3), time.Duration(rng.IntN(3)) * time.Hour}
		if r.Check() != nil {
			continue
		}
		var times []time.Time
		for range 1 + rng.IntN(40) {
			times = append(times, time.Unix(1_700_000_000+rng.Int64N(90*86400), 0).UTC())
		}
		keep := func(times []time.Time) []time.Time {
			var out []time.Time
			for i, k := range r.Keep(times) {
				if len(k) > 0 {
					out = append(out, times[i])
				}
			}
			slices.SortFunc(out, time.Time.Compare)
			return out
		}
		once := keep(times)
		if !slices.Contains(once, slices.MaxFunc(times, time.Time.Compare)) {
			t.Fatalf("%+v forgets the latest of %v", r, times)
		}
		if again := keep(once); !slices.Equal(once, again) {
			t.Fatalf("%+v: forgetting twice: %v, then %v", r, once, again)
		}
		rng.Shuffle(len(times), func(i, j int) { times[i], times[j] = times[j], times[i] })
		if other := keep(times); !slices.Equal(once, other) {
			t.Fatalf("%+v: the order matters: %v, %v", r, once, other)
		}
	}
}
