package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/pflag"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"cowl/internal/cli/fields"
	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// merging is how a snapshot is merged into its origin: for lvconvert and rollback.
type merging struct {
	*app
	background bool
	interval   option[int]
	rate       option[int64]
	alone      bool // the group is active in this process only
}

func newMerging(a *app) merging {
	return merging{app: a, interval: option[int]{kind: "Seconds", parse: parseInterval}, rate: rateOption()}
}

func (c *merging) addFlags(f *pflag.FlagSet) {
	f.BoolVarP(&c.background, "background", "b", false, "return at once")
	flagOf(f, &c.rate, "rate", "", "copy no more than so much a second")
	flagOf(f, &c.interval, "interval", "i", "show the progress every so many seconds (default 15)")
}

func parseInterval(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err == nil && n < 0 {
		err = errors.New("negative")
	}
	return n, err
}

// mergeState is how far a merge is when a command ends.
type mergeState string

const (
	mergeNotStarted mergeState = "not started"
	mergeStarted    mergeState = "started"
	mergeWaits      mergeState = "waits" // for the origin or the snapshot to be closed, or for the origin's activation
	mergeFinished   mergeState = "finished"
)

// mergeOne merges a snapshot, and stays until that is done unless it has to wait,
// or runs in the background.
func (c *merging) mergeOne(ctx context.Context, g manager.Group, name string) (mergeState, error) {
	s, err := g.Status(ctx)
	if err != nil {
		return mergeNotStarted, err
	}
	snap, isSnap := s.Group.SnapshotOf(s.Group.LV(name))
	if !isSnap {
		return mergeNotStarted, errNoSnapshot(s.Group, name)
	}
	origin := snap.Origin.Name
	r, err := g.Merge(ctx, c.spec(name))
	if err != nil {
		return mergeNotStarted, err
	}
	c.tell(r.Notes)
	c.sayRate(fullName(s.Group.Name, name))
	switch {
	case c.test:
		return mergeNotStarted, nil
	case isDelayed(ctx, g, name):
		return mergeWaits, nil
	case c.background:
		return mergeStarted, nil
	}
	return mergeFinished, c.watch(ctx, g, s.Group.Name, origin, name)
}

func errNoSnapshot(vg *volume.Group, name string) error {
	full := fullName(vg.Name, name)
	if lv := vg.LV(name); lv != nil && lv.ThinOrigin() != "" {
		return errs.WithHint(errs.E(errs.Unsupported, "%s is a snapshot in a thin pool: cowl does not merge these.", full), "lvm2 does: lvconvert --merge %s", full)
	}
	return errs.E(errs.Conflict, "%s is not a snapshot: only snapshots can be merged.", full)
}

// spec is what is asked for.
func (c *merging) spec(name string) volume.MergeSpec {
	spec := volume.MergeSpec{Name: name}
	if c.rate.given {
		spec.Rate = &c.rate.value
	}
	return spec
}

func (c *merging) sayRate(name string) {
	switch {
	case c.rate.given && c.rate.value > 0:
		c.say("Merging of volume %s copies at most %s a second.", name, volume.LongSize(c.rate.value))
	case c.rate.given:
		c.say("Merging of volume %s copies as fast as it can.", name)
	}
}

// isDelayed reports whether the merge waits for somebody to close the origin,
// or for its activation.
func isDelayed(ctx context.Context, g manager.Group, snapshot string) bool {
	s, err := g.Status(ctx)
	if err != nil {
		return false
	}
	lv := s.Group.LV(snapshot)
	if lv == nil {
		return false // merged already
	}
	state, active := s.LVs[snapshot]
	return !active || state.Cow != nil && state.Cow.Delayed
}

// watch shows how far a merge is until it is done. It looks often, so that it
// ends soon after the merge, and prints at the interval.
func (c *merging) watch(ctx context.Context, g manager.Group, vg, origin, snapshot string) error {
	p := c.mergeProgress(fullName(vg, origin), c.interval)
	defer p.stop()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		s, err := g.Status(ctx)
		if err != nil {
			return err
		}
		if s.Group.LV(snapshot) == nil {
			p.show(100)
			c.say("Merge of snapshot into logical volume %s has finished.", fullName(vg, origin))
			c.say("Logical volume %q successfully removed.", snapshot)
			return nil
		}
		merged, err := mergedPercent(s, vg, snapshot)
		if err != nil {
			return err
		}
		p.show(merged)
		select {
		case <-ctx.Done():
			p.stop()
			if c.alone {
				return errs.WithHint(ctx.Err(), "Merging of %s goes on when %s is activated.", fullName(vg, snapshot), fullName(vg, origin))
			}
			return errs.WithHint(ctx.Err(), "Merging of %s goes on.", fullName(vg, snapshot))
		case <-tick.C:
		}
	}
}

// watchEvery is how often a merge is looked at.
const watchEvery = 200 * time.Millisecond

// mergedPercent returns how much of a merging snapshot is merged.
func mergedPercent(s *manager.Status, vg, snapshot string) (float64, error) {
	cow := s.LVs[snapshot].Cow
	switch {
	case !s.Group.IsCow(s.Group.LV(snapshot)):
		return 100, nil // lvm2 dissolves the snapshot first, and removes what was its store then
	case cow == nil:
		return 0, errs.WithHint(errs.E(errs.Conflict, "Merging of %s has stopped: it is not active any more.", fullName(vg, snapshot)),
			"It goes on when its origin is activated.")
	case cow.MergeFailed:
		return 0, errs.E(errs.Other, "Merging of %s has failed: %s", fullName(vg, snapshot), cow.Reason)
	case cow.Invalid:
		return 0, errs.E(errs.Corrupt, "Unable to merge invalidated snapshot LV %s: %s", fullName(vg, snapshot), cow.Reason)
	}
	left, err := strconv.ParseFloat(fields.Percent(cow), 64)
	if err != nil {
		return 0, fmt.Errorf("percentage of %s: %w", snapshot, err)
	}
	return 100 - left, nil
}

// mergeProgress shows percentages: a bar on a terminal, lines as LVM's else.
type mergeProgress struct {
	app      *app
	label    string
	interval time.Duration
	last     time.Time
	shown    float64
	bars     *mpb.Progress
	bar      *mpb.Bar
}

// progressUnits is how finely the bar divides.
const progressUnits = 10000

// mergeProgress begins to show a merge: at the interval, if one was asked for.
func (a *app) mergeProgress(label string, interval option[int]) *mergeProgress {
	p := &mergeProgress{app: a, label: label, interval: 15 * time.Second}
	if interval.given {
		p.interval = time.Duration(interval.value) * time.Second
	}
	if a.Progress && !interval.given {
		p.bars = mpb.New(mpb.WithOutput(a.Stderr), mpb.WithWidth(48))
		p.bar = p.bars.AddBar(progressUnits,
			mpb.PrependDecorators(decor.Name(indent+label+": Merged ")),
			mpb.AppendDecorators(decor.Percentage()), mpb.BarRemoveOnComplete())
	}
	return p
}

func (p *mergeProgress) show(percent float64) {
	if p.bar != nil {
		p.bar.SetCurrent(int64(percent * progressUnits / 100))
		return
	}
	done := percent == 100 && p.shown < 100
	if now := p.app.Now(); done || percent < 100 && now.Sub(p.last) >= p.interval {
		p.last, p.shown = now, percent
		p.app.say("%s: Merged: %.2f%%", p.label, percent)
	}
}

// stop takes the bar away.
func (p *mergeProgress) stop() {
	if p.bar != nil {
		p.bar.Abort(true)
		p.bars.Wait()
		p.bar = nil
	}
}
