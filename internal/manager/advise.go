package manager

import (
	"fmt"
	"strings"
	"time"

	"cowl/internal/forecast"
	"cowl/internal/volume"
)

// AdviseSnapshot fills in what a snapshot should have that was asked for
// without a size: enough COW space for forecast.Horizon of writes as they are
// known, and the chunk size for it. If too little is known it does nothing, and
// the snapshot gets the default, which does not depend on luck.
//
// Advice that is only fair is wrong once in twenty times. It is taken if the
// store can make up for that: it grows, as growth and the snapshot's tags say,
// and the group has as much again to give it, or all that it can ever use.
func AdviseSnapshot(g *volume.Group, spec *volume.SnapshotSpec, known *forecast.Pattern, growth volume.Growth) {
	lv := g.LV(spec.Origin)
	if lv == nil || !spec.Size.IsZero() || spec.Advised != nil {
		return
	}
	a := forecast.Advise(known, forecast.Horizon, g.LVSize(lv).Bytes(), g.ExtentSize.Bytes())
	need := a.Take()
	for _, n := range a.Needs {
		if n.ChunkBytes == spec.ChunkSize.Bytes() {
			need = n
		}
	}
	if c := a.Estimate.Confidence; c < forecast.Fair || c == forecast.Fair && !canGrow(g, lv, spec, need, growth) {
		return
	}
	spec.ChunkSize = volume.Sectors(need.ChunkBytes >> 9)
	spec.Advised = &volume.AdvisedCow{
		Bytes: need.Cow,
		Why: fmt.Sprintf("for %s of writes as they were watched for %s (confidence: %v)",
			DurationText(forecast.Horizon), DurationText(known.Watched()), a.Estimate.Confidence),
	}
}

// canGrow reports whether a store that turns out too small can be extended.
func canGrow(g *volume.Group, origin *volume.LV, spec *volume.SnapshotSpec, need forecast.Need, growth volume.Growth) bool {
	if !(&volume.LV{Tags: spec.Tags}).GrowthOf(growth).Enabled() {
		return false
	}
	want := g.ExtentsFor(need.Cow)
	limit := g.ExtentsFor(volume.CowMax(g.LVSize(origin).Bytes(), volume.Sectors(need.ChunkBytes>>9)))
	return g.Spare() >= min(2*want, max(want, limit))
}

// DurationText is a time for people: the two largest units of it.
func DurationText(d time.Duration) string {
	d = d.Round(time.Second)
	var parts []string
	for _, u := range []struct {
		letter string
		length time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}} {
		if n := d / u.length; n > 0 && len(parts) < 2 {
			parts = append(parts, fmt.Sprintf("%d%s", n, u.letter))
			d -= n * u.length
		} else if len(parts) > 0 {
			break
		}
	}
	if parts == nil {
		return "0s"
	}
	return strings.Join(parts, "")
}
