package report

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// span is the seconds that a time stands for: "2026-07" is a whole month. to
// is the last of them.
type span struct{ from, to int64 }

// timeOperand parses a point or span of time:
//
//	2026-07-07 9:51:02 +01:00   parts may be left out from the right
//	@1436262662                 seconds since the epoch
//	today, yesterday, "2 weeks ago", "1 hour 30 minutes ago"
func (p *selectionParser[R]) timeOperand(f *Field[R], op operator, start int) (predicate[R], error) {
	text, ok := p.word()
	if !ok {
		return nil, p.bad(f, "time", "Missing end quote.", start)
	}
	s, ok := parseTime(text, p.now)
	if !ok {
		return nil, p.bad(f, "time", "Unrecognized string in date/time specification at \""+text+"\".", start)
	}
	return func(r R) bool {
		v := f.Get(r)
		return v.Known && s.compares(op, int64(v.Num))
	}, nil
}

func (s span) compares(op operator, t int64) bool {
	switch op {
	case equal:
		return s.from <= t && t <= s.to
	case notEqual:
		return t < s.from || s.to < t
	case greater:
		return t > s.to
	case greaterEqual:
		return t >= s.from
	case less:
		return t < s.from
	}
	return t <= s.to
}

// layouts are the standard forms, with what to add for the end of the span.
var layouts = []struct {
	layout              string
	years, months, days int
	length              time.Duration
}{
	{"2006-1-2 15:4:5", 0, 0, 0, time.Second},
	{"2006-1-2 15:4", 0, 0, 0, time.Minute},
	{"2006-1-2 15", 0, 0, 0, time.Hour},
	{"2006-1-2", 0, 0, 1, 0},
	{"2006-1", 0, 1, 0, 0},
	{"2006", 1, 0, 0, 0},
}

// zones may follow a standard form.
var zones = []string{"", " -0700", " -07:00", " -07"}

func parseTime(text string, now time.Time) (span, bool) {
	if seconds, ok := strings.CutPrefix(text, "@"); ok {
		t, err := strconv.ParseInt(seconds, 10, 64)
		return span{t, t}, err == nil
	}
	for _, l := range layouts {
		for _, zone := range zones {
			if t, err := time.ParseInLocation(l.layout+zone, text, now.Location()); err == nil {
				end := t.AddDate(l.years, l.months, l.days).Add(l.length)
				return span{t.Unix(), end.Unix() - 1}, true
			}
		}
	}
	return parseFreeform(text, now)
}

// agoPart is one "3 days" of "3 days 2 hours ago".
var agoPart = regexp.MustCompile(`^([0-9]+) *([a-z]+) +`)

// parseFreeform reads days by name and times counted back from now.
func parseFreeform(text string, now time.Time) (span, bool) {
	midnight := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location())
	day := func(t time.Time) (span, bool) { return span{t.Unix(), t.AddDate(0, 0, 1).Unix() - 1}, true }
	text = strings.ToLower(strings.TrimSpace(text))
	switch text {
	case "today":
		return day(midnight)
	case "yesterday":
		return day(midnight.AddDate(0, 0, -1))
	}
	rest, t := text, now
	for rest != "ago" {
		m := agoPart.FindStringSubmatch(rest)
		if m == nil {
			return span{}, false
		}
		n, err := strconv.Atoi(m[1])
		back, ok := goBack(t, n, m[2])
		if err != nil || !ok {
			return span{}, false
		}
		t, rest = back, rest[len(m[0]):]
	}
	return span{t.Unix(), t.Unix()}, text != "ago"
}

// goBack returns the time n units before t.
func goBack(t time.Time, n int, unit string) (time.Time, bool) {
	if n > 1e6 {
		return t, false
	}
	d := time.Duration(n)
	switch strings.TrimSuffix(unit, "s") {
	case "", "sec", "second": // "s" alone is trimmed away
		return t.Add(-d * time.Second), true
	case "m", "min", "minute":
		return t.Add(-d * time.Minute), true
	case "h", "hr", "hour":
		return t.Add(-d * time.Hour), true
	case "d", "day":
		return t.AddDate(0, 0, -n), true
	case "w", "week":
		return t.AddDate(0, 0, -7*n), true
	case "month":
		return t.AddDate(0, -n, 0), true
	case "y", "year":
		return t.AddDate(-n, 0, 0), true
	}
	return t, false
}
