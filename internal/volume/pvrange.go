package volume

import (
	"regexp"
	"strconv"
	"strings"

	"cowl/internal/errs"
)

// rangeSuffix matches the extent ranges behind a PV: ":0-99", ":100+50", ":7",
// ":7-", repeated.
var rangeSuffix = regexp.MustCompile(`(:[0-9]*([-+][0-9]*)?)+$`)

// ParsePVRanges reads a PV argument of lvcreate or lvextend: a path or @tag,
// and optional ranges of extents as in "/dev/sdb:0-99:200+50:300-". A path may
// contain colons; only what looks like ranges at its end is taken for them.
func ParsePVRanges(arg string) ([]PVRange, error) {
	suffix := rangeSuffix.FindString(arg)
	pv := arg[:len(arg)-len(suffix)]
	if pv == "" {
		return nil, errs.E(errs.Usage, "Physical volume %q has no name before its ranges.", arg)
	}
	if suffix == "" {
		return []PVRange{{PV: pv, Whole: true}}, nil
	}
	var ranges []PVRange
	for _, text := range strings.Split(suffix[1:], ":") {
		r, err := parseRange(text)
		if err != nil {
			return nil, errs.E(errs.Usage, "Physical extent parsing error at %s.", text)
		}
		if r.End < r.Start {
			return nil, errs.E(errs.Usage, "PE range error: start extent %d to end extent %d.", r.Start, r.End)
		}
		r.PV = pv
		ranges = append(ranges, r)
	}
	return ranges, nil
}

// endOfPV is the end of a range without one: larger than any extent number.
const endOfPV Extents = 1<<32 - 1

func parseRange(text string) (r PVRange, err error) {
	number := func(s string, fallback Extents) Extents {
		if s == "" {
			return fallback
		}
		n, e := strconv.ParseUint(s, 10, 32)
		if e != nil {
			err = e
		}
		return Extents(n)
	}
	if start, count, ok := strings.Cut(text, "+"); ok {
		r.Start = number(start, 0)
		n := number(count, 0)
		if n == 0 {
			return r, errs.E(errs.Usage, "empty range")
		}
		r.End = r.Start + n - 1
		return r, err
	}
	start, end, isRange := strings.Cut(text, "-")
	r.Start = number(start, 0)
	r.End = endOfPV
	if isRange {
		r.End = number(end, endOfPV)
	} else if start != "" {
		r.End = r.Start
	}
	return r, err
}
