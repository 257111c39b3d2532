package volume

import (
	"slices"
	"strconv"
	"strings"

	"cowl/internal/errs"
)

// tagMergeRate is a tag of a snapshot's COW store that bounds how fast it is
// merged, in bytes a second: a merge that goes on after a restart keeps to it.
const tagMergeRate = "cowl.merge_rate="

// MergeRate returns how fast a snapshot is to be merged at most, in bytes a
// second; 0 if there is no bound. A tag that makes no sense is none.
func (lv *LV) MergeRate() int64 {
	var rate int64
	for _, tag := range lv.Tags {
		if n, ok, err := parseMergeRate(tag); ok && err == nil {
			rate = n
		}
	}
	return rate
}

func (lv *LV) setMergeRate(rate int64) {
	lv.Tags = slices.DeleteFunc(lv.Tags, func(t string) bool { return strings.HasPrefix(t, tagMergeRate) })
	if rate > 0 {
		lv.Tags = append(lv.Tags, tagMergeRate+strconv.FormatInt(rate, 10))
	}
}

// parseMergeRate reads a tag, and reports whether it is one of these.
func parseMergeRate(tag string) (rate int64, ok bool, err error) {
	text, ok := strings.CutPrefix(tag, tagMergeRate)
	if !ok {
		return 0, false, nil
	}
	rate, err = strconv.ParseInt(text, 10, 64)
	if err != nil || rate < 0 {
		err = errs.E(errs.Usage, "%q is no rate for merges: use bytes a second, as a number.", text)
	}
	return rate, true, err
}
