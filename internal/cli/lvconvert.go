package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"cowl/internal/cli/fields"
	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// lvconvert is one run of the verb.
type lvconvert struct {
	*app
	cmd        *cobra.Command
	merge      bool
	background bool
	interval   option[int]
	rate       option[int64]
}

func newLVConvert(a *app) *cobra.Command {
	c := &lvconvert{app: a, interval: option[int]{kind: "Seconds", parse: parseInterval}, rate: rateOption()}
	c.cmd = &cobra.Command{
		Use: "lvconvert --merge [OPTION]... VG/SNAPSHOT|@TAG...", Short: "Merge snapshots into their origins (roll back)", GroupID: groupLVM,
		Long: `Merge snapshots into their origins, which then are what they were when the
snapshots were taken. The snapshots are gone when that is done.

While the origin or the snapshot is open, the merge waits until it is closed.
The origin can be used while the merge runs, and shows the old content at once.
A merge that is interrupted, by a power cut too, goes on when the origin is
activated again.

Without -b the command stays and shows how far the merge is; interrupting the
command does not undo the merge.

--rate leaves the disk to others: no more than so much is copied back in a second
(KiB without a unit, 0 for as fast as it goes). Given again for a snapshot that is
being merged, it changes the rate. The metadata keeps it, as the tag
cowl.merge_rate, so that it holds for a merge that goes on later; under the
kernel's LVM it has no effect. lvs -o merge_rate shows it.`,
		Example: `  cowl lvconvert --merge vg/before
  cowl lvconvert --merge --rate 20M vg/before
  cowl lvconvert --merge -b vg/before ; cowl lvs -o+data_percent vg
  cowl lvconvert --merge -i 1 vg/before`,
		Args: func(cmd *cobra.Command, args []string) error {
			if !c.merge || len(args) == 0 {
				return noSyntax(cmd)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return c.eachTarget(cmd, args, c.mergeAll) },
	}
	f := c.cmd.Flags()
	f.BoolVar(&c.merge, "merge", false, "merge the snapshots")
	f.BoolVar(&c.merge, "mergesnapshot", false, "the same")
	f.BoolVarP(&c.background, "background", "b", false, "return at once")
	flagOf(f, &c.rate, "rate", "", "copy no more than so much a second")
	flagOf(f, &c.interval, "interval", "i", "show the progress every so many seconds (default 15)")
	return c.cmd
}

func parseInterval(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err == nil && n < 0 {
		err = errors.New("negative")
	}
	return n, err
}

func (c *lvconvert) mergeAll(t target, g manager.Group, s *manager.Status) error {
	names, failed := c.volumes(t, s)
	for _, name := range names {
		if t.names == nil && !s.Group.IsCow(s.Group.LV(name)) {
			continue // of a whole group, the snapshots
		}
		if err := c.mergeOne(g, name); err != nil {
			c.complain(err)
			failed = errSilent
		}
	}
	return failed
}

func (c *lvconvert) mergeOne(g manager.Group, name string) error {
	ctx := c.cmd.Context()
	s, err := g.Status(ctx)
	if err != nil {
		return err
	}
	snap, isSnap := s.Group.SnapshotOf(s.Group.LV(name))
	if !isSnap {
		return errs.E(errs.Conflict, "%s is not a snapshot: only snapshots can be merged.", fullName(s.Group.Name, name))
	}
	origin := snap.Origin.Name
	r, err := g.Merge(ctx, c.spec(name))
	if err != nil {
		return err
	}
	c.tell(r.Notes)
	c.sayRate(fullName(s.Group.Name, name))
	if c.background || c.test || isDelayed(ctx, g, name) {
		return nil
	}
	return c.watch(ctx, g, s.Group.Name, origin, name)
}

// spec is what is asked for.
func (c *lvconvert) spec(name string) volume.MergeSpec {
	spec := volume.MergeSpec{Name: name}
	if c.rate.given {
		spec.Rate = &c.rate.value
	}
	return spec
}

func (c *lvconvert) sayRate(name string) {
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
func (c *lvconvert) watch(ctx context.Context, g manager.Group, vg, origin, snapshot string) error {
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
