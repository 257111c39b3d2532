package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cowl/internal/errs"
	"cowl/internal/forecast"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// advise is one run of the verb.
type advise struct {
	*app
	horizon option[time.Duration]
	watch   option[time.Duration]
	json    bool

	group *volume.Group
	lv    *volume.LV // the origin
}

// firstWatch is how long a volume is watched of which nothing is known.
const firstWatch = time.Minute

func newAdvise(a *app) *cobra.Command {
	c := &advise{app: a, horizon: durationOption(), watch: durationOption()}
	c.horizon.value = forecast.Horizon
	cmd := &cobra.Command{
		Use: "advise VG/LV [OPTION]...", Short: "Say how large a snapshot of a volume should be", GroupID: groupOwn,
		Long: `Say which COW size and chunk size a snapshot of the volume needs that is to live
for some time, for a backup say, and how sure that is.

A snapshot needs room for what changes, however often it changes: for the
different chunks that are written to. cowl watches that for every chunk size, of
all volumes that it serves, for as long as somebody has them open, and remembers
it when they are deactivated. If something is known, the answer comes at once; if
nothing is, the volume is watched for a minute first. --watch watches it longer
now; Ctrl-C ends that, and answers from what was seen.

A volume that the kernel runs is watched by dm statistics (as root), which count
the writes to each part of it, but not to which chunks they go, so that the
answer is less sure; where those cannot be had, by the totals of /proc/diskstats,
which is no more than a guess.

Confidence is
  good   the time was watched four times over or more, and windows of that
         length differ by less than 30 %
  fair   it was watched once or more
  poor   an eighth of it was
  guess  less, or what is known are bounds that lie far apart
  none   nothing is known: the size is that which cannot overflow, or half of
         the group's free space if that is less
What the past does not show, no confidence covers: a nightly job, a restore.`,
		Example: `  cowl advise vg/data
  cowl advise vg/data --for 8h
  cowl advise vg/data --for 30m --watch 10m
  cowl lvcreate -s -n backup vg/data       # takes the advice for an hour`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error { return usageError(cmd, c.run(cmd.Context(), args[0])) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	flagOf(f, &c.horizon, "for", "", "how long the snapshot is to live: 30m, 8h, 2d (1h)")
	flagOf(f, &c.watch, "watch", "", "watch the volume for so long first")
	f.BoolVar(&c.json, "json", false, "print one JSON object instead of text")
	return cmd
}

// durationOption is an argument such as 30m.
func durationOption() option[time.Duration] {
	return option[time.Duration]{kind: "Time[s|m|h|d]", parse: parseDuration}
}

// parseDuration reads a time with units, days among them.
func parseDuration(text string) (time.Duration, error) {
	const longest = 10 * 365 * 24 * time.Hour
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n float64
		n, err = strconv.ParseFloat(days, 64)
		d = time.Duration(min(n, 1e5) * 24 * float64(time.Hour)) // NaN and the like fail below
	}
	if err != nil || d < forecast.Slot || d > longest {
		return 0, errs.E(errs.Usage, "A time is a number with a unit, from 1s to 3650d.")
	}
	return d, nil
}

func (c *advise) run(ctx context.Context, arg string) error {
	name, err := c.lvArg(arg)
	if err != nil {
		return err
	}
	info, err := c.find(ctx, name)
	if err != nil {
		return err
	}
	w, err := c.watcher(ctx, info)
	if err != nil {
		return err
	}
	known, err := c.observe(ctx, w)
	if err := errors.Join(err, w.end()); err != nil {
		return err
	}
	a := forecast.Advise(known, c.horizon.value, c.group.LVSize(c.lv).Bytes(), c.group.ExtentSize.Bytes())
	report := c.report(w.source(), known, &a)
	if c.json {
		return c.sayJSON(report)
	}
	c.print(report, known, &a)
	return nil
}

// find looks the volume up, of a snapshot its origin.
func (c *advise) find(ctx context.Context, name lvName) (*manager.GroupInfo, error) {
	inv, err := c.scan(ctx)
	if err != nil {
		return nil, err
	}
	info := inv.Group(name.VG)
	if info == nil {
		return nil, noGroup(name.VG)
	}
	if info.Unusable != nil {
		return nil, info.Unusable
	}
	c.group = info.Meta
	if c.lv, err = c.group.FindLV(name.LV); err != nil {
		return nil, err
	}
	c.lv, _ = family(c.group, c.lv)
	return info, nil
}

// observe returns what is known, after watching if that is asked for, or if
// nothing is known and there is something to watch.
func (c *advise) observe(ctx context.Context, w watcher) (*forecast.Pattern, error) {
	known, err := w.pattern(ctx)
	if err != nil {
		return nil, err
	}
	length := c.watch.value
	if !c.watch.given && len(known.Windows) == 0 && w.active() {
		length = firstWatch
		c.note("Nothing is known of writes to %s/%s yet: watching for %s. Ctrl-C ends that.", c.group.Name, c.lv.Name, manager.DurationText(length))
	}
	switch {
	case length == 0:
		return known, nil
	case !w.active():
		return nil, errs.WithHint(errs.E(errs.Conflict, "Logical volume %s/%s is not active: nothing is written to it.", c.group.Name, c.lv.Name),
			"Activate it with lvchange -ay %s/%s and use it, or leave out --watch.", c.group.Name, c.lv.Name)
	}
	if err := c.look(ctx, w, length); err != nil {
		return nil, err
	}
	// Also when the watching was interrupted there is an answer.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	now, err := w.pattern(ctx)
	if err == nil && now.Slots == known.Slots {
		c.warn("nobody had %s/%s open meanwhile: only time in which a volume is open counts", c.group.Name, c.lv.Name)
	}
	return now, err
}

// look watches for some time, or until it is interrupted.
func (c *advise) look(ctx context.Context, w watcher, length time.Duration) error {
	bar := c.newTimeBar("watch", length)
	defer bar.end()
	tick := time.NewTicker(forecast.Slot)
	defer tick.Stop()
	for began := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := w.tick(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		gone := time.Since(began)
		bar.set(gone)
		if gone >= length-forecast.Slot/2 {
			return nil
		}
	}
}

// adviceReport is what the verb prints with --json. Sizes are in bytes.
type adviceReport struct {
	VG           string        `json:"vg"`
	LV           string        `json:"lv"`
	VolumeBytes  int64         `json:"volume_bytes"`
	FreeBytes    int64         `json:"free_bytes"` // in the group
	Seconds      float64       `json:"for_seconds"`
	Source       string        `json:"source"`
	Watched      float64       `json:"watched_seconds"`
	WatchedUntil *time.Time    `json:"watched_until"`
	Confidence   string        `json:"confidence"`
	Windows      int           `json:"windows"` // of that length
	Spread       float64       `json:"spread"`  // their standard deviation by their mean
	Rough        bool          `json:"rough"`   // only bounds are known
	Chunks       []chunkReport `json:"chunks"`
	Advised      struct {
		ChunkBytes int64 `json:"chunk_bytes"`
		CowBytes   int64 `json:"cow_bytes"`
	} `json:"advised"`
}

// chunkReport is what is known for one chunk size, in chunks and bytes.
type chunkReport struct {
	ChunkBytes int64 `json:"chunk_bytes"`
	PerMinute  int64 `json:"chunks_a_minute"`
	Low        int64 `json:"low"`
	Likely     int64 `json:"likely"`
	High       int64 `json:"high"`
	CowBytes   int64 `json:"cow_bytes"` // for High
	LikelyCow  int64 `json:"likely_cow_bytes"`
}

func (c *advise) report(source string, known *forecast.Pattern, a *forecast.Advice) *adviceReport {
	e := &a.Estimate
	r := &adviceReport{
		VG: c.group.Name, LV: c.lv.Name, VolumeBytes: c.group.LVSize(c.lv).Bytes(), FreeBytes: c.group.ExtentBytes(c.group.Free()),
		Seconds: a.For.Seconds(), Source: source, Watched: known.Watched().Seconds(),
		Confidence: e.Confidence.String(), Windows: e.Windows, Spread: e.Spread, Rough: e.Rough,
	}
	if !known.Until.IsZero() {
		r.WatchedUntil = &known.Until
	}
	minute := known.After(time.Minute)
	for i, n := range a.Needs {
		if e.Confidence != forecast.None {
			r.Chunks = append(r.Chunks, chunkReport{n.ChunkBytes, minute.Likely[i], n.Low, n.Likely, n.High, n.Cow, n.LikelyCow})
		}
	}
	take := a.Take()
	r.Advised.ChunkBytes, r.Advised.CowBytes = take.ChunkBytes, take.Cow
	if e.Confidence == forecast.None {
		r.Advised.CowBytes = c.safe(take.ChunkBytes)
	}
	return r
}

// safe is the size that needs no knowledge: that which lvcreate takes then.
func (c *advise) safe(chunk int64) int64 {
	g := c.group
	most := g.ExtentBytes(g.ExtentsFor(volume.CowMax(g.LVSize(c.lv).Bytes(), volume.Sectors(chunk>>9))))
	return min(most, g.ExtentBytes(max(1, g.Free()/2)))
}

// print writes the answer for people.
func (c *advise) print(r *adviceReport, known *forecast.Pattern, a *forecast.Advice) {
	c.say("%s/%s, %s, %s.", r.VG, r.LV, sizeText(r.VolumeBytes), c.watchedText(r, known))
	if len(r.Chunks) > 0 {
		c.say("A snapshot that lives for %s:", manager.DurationText(a.For))
		c.say("  %6s  %12s  %14s  %14s  %12s", "chunk", "a minute", "copied: likely", "at most", "COW store")
		for i, k := range r.Chunks {
			mark := " "
			if i == a.Best {
				mark = "*"
			}
			c.say("%s %6s  %12d  %14s  %14s  %12s", mark, fmt.Sprintf("%dk", k.ChunkBytes>>10), k.PerMinute,
				plainSize(k.Likely*k.ChunkBytes), plainSize(k.High*k.ChunkBytes), plainSize(k.CowBytes))
		}
	}
	c.say("Confidence: %s.", confidenceText(&a.Estimate))
	c.say("  cowl lvcreate -s -L %s -c %dk %s/%s", argText(r.Advised.CowBytes), r.Advised.ChunkBytes>>10, r.VG, r.LV)
	if r.Advised.CowBytes > r.FreeBytes {
		c.warn("the group has only %s free", sizeText(r.FreeBytes))
	}
}

// plainSize is a size in a table of estimates, in which it does not matter
// which way it was rounded.
func plainSize(bytes int64) string {
	return strings.TrimSpace(volume.SizeFormat{Units: "h", Long: true}.Format(bytes))
}

// argText is a size as an argument of -L, exactly.
func argText(bytes int64) string {
	for _, u := range []struct {
		letter string
		shift  int
	}{{"g", 30}, {"m", 20}, {"k", 10}} {
		if bytes>>u.shift<<u.shift == bytes {
			return fmt.Sprintf("%d%s", bytes>>u.shift, u.letter)
		}
	}
	return fmt.Sprintf("%db", bytes)
}

func (c *advise) watchedText(r *adviceReport, known *forecast.Pattern) string {
	if r.Watched == 0 {
		return "never watched"
	}
	text := "watched for " + manager.DurationText(known.Watched())
	if r.WatchedUntil != nil {
		text += " until " + r.WatchedUntil.In(c.Zone).Format("2006-01-02 15:04:05")
	}
	return text
}

// confidenceText says what a grade rests on.
func confidenceText(e *forecast.Estimate) string {
	text := e.Confidence.String() + ": "
	switch {
	case e.Confidence == forecast.None:
		return text + "nothing is known of its writes, and the size does not depend on them"
	case e.Rough:
		return text + "the kernel tells how much is written, but not to how many chunks"
	case e.Windows == 0:
		return text + "it was never watched for so long"
	case e.Windows == 1:
		return text + "it was watched for so long once"
	}
	return fmt.Sprintf("%sit was watched for so long %d times, which differ by %.0f %%", text, e.Windows, 100*e.Spread)
}
