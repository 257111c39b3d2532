package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"cowl/internal/cli/fields"
	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// rollback is one run of the verb.
type rollback struct {
	merging
	blocks, stat, blind, json bool
	all                       *app // with --json, merging's app prints elsewhere
}

func newRollback(a *app) *cobra.Command {
	r := &rollback{merging: newMerging(a)}
	cmd := &cobra.Command{
		Use: "rollback VG/SNAPSHOT [OPTION]...", Short: "Show what merging a snapshot would undo, ask, and merge it", GroupID: groupOwn,
		Long: `Show what would change in a snapshot's origin if it became what the snapshot
shows, ask, and merge the snapshot into it, as lvconvert --merge does. The snapshot is
gone then.

  + comes back    - is lost    M, m, R, T become what they were, as cowl diff shows it

Where the files of both can be read (ext2, ext3, ext4) the first of them are listed;
cowl diff ORIGIN SNAPSHOT lists all. Otherwise, and with --blocks, it is how much of the
volume differs. Only blocks that were written since the snapshot was taken are read.

With --test that is all; with -y nothing is asked. What is written to the origin
between the question and the merge is undone as well.

A merge waits while the origin or the snapshot is open. A group that is not active
is active in this command for as long as the merge takes (without -b); it can be
interrupted, and goes on when the origin is activated.`,
		Example: `  cowl rollback vg/before-upgrade
  cowl rollback -t vg/before-upgrade        # what would it undo?
  cowl rollback -y --json vg/before-upgrade`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error { return r.run(cmd, args[0]) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&r.blocks, "blocks", false, "compare blocks instead of files")
	f.BoolVar(&r.stat, "stat", false, "show totals only")
	f.BoolVar(&r.blind, "no-preview", false, "do not compare, only ask")
	r.addFlags(f)
	f.BoolVar(&r.json, "json", false, "print one JSON object, with totals")
	return cmd
}

// rollbackReport is what --json prints. Sizes are in bytes.
type rollbackReport struct {
	Origin       string          `json:"origin"`
	Snapshot     string          `json:"snapshot"`
	SnapshotTime *time.Time      `json:"snapshot_time,omitempty"`
	CopiedBytes  *int64          `json:"copied_back_at_most,omitempty"`
	Files        json.RawMessage `json:"files,omitempty"`  // as cowl diff --stat --json ORIGIN SNAPSHOT
	Blocks       json.RawMessage `json:"blocks,omitempty"` // as with --blocks
	Merge        mergeState      `json:"merge"`
}

func (r *rollback) run(cmd *cobra.Command, arg string) error {
	if r.blind && (r.blocks || r.stat) {
		return usage(cmd, "--no-preview leaves nothing for --blocks and --stat.")
	}
	name, err := r.lvArg(arg)
	if err != nil {
		return usageError(cmd, err)
	}
	if r.all = r.app; r.json {
		quiet, env := *r.app, *r.Env
		quiet.Env, env.Stdout = &env, r.Stderr
		r.app = &quiet
	}
	return r.roll(cmd.Context(), name)
}

func (r *rollback) roll(ctx context.Context, name lvName) error {
	undo, err := r.look(ctx, name)
	if err != nil {
		return err
	}
	report := undo.report()
	if !undo.merging {
		if err := r.preview(ctx, undo, report); err != nil {
			return err
		}
		for _, w := range undo.warnings {
			r.warn("%s", w)
		}
	}
	report.Merge = mergeNotStarted
	if r.testMode(); !r.test {
		if report.Merge, err = r.merge(ctx, undo); err != nil {
			return err
		}
	}
	if r.json {
		return r.all.sayJSON(report)
	}
	return nil
}

// undoing is what is to be merged into what.
type undoing struct {
	vg       string
	snapshot string
	origin   string
	id       volume.UUID // the snapshot's
	taken    time.Time   // zero if the metadata does not say it
	copied   int64       // bytes, at most; negative if it is not known
	merging  bool        // already
	warnings []string
}

func (u *undoing) names() (origin, snapshot string) {
	return fullName(u.vg, u.origin), fullName(u.vg, u.snapshot)
}

func (u *undoing) report() *rollbackReport {
	r := &rollbackReport{}
	r.Origin, r.Snapshot = u.names()
	if !u.taken.IsZero() {
		r.SnapshotTime = &u.taken
	}
	if u.copied >= 0 {
		r.CopiedBytes = &u.copied
	}
	return r
}

// look reads what the group says of a snapshot.
func (r *rollback) look(ctx context.Context, name lvName) (u *undoing, err error) {
	err = r.real().withGroup(ctx, name.VG, func(_ manager.Group, st *manager.Status) error {
		u, err = newUndoing(st, name.LV)
		return err
	})
	return u, err
}

// real is the program without --test: a preview has to read, and changes nothing.
func (r *rollback) real() *app {
	a := *r.app
	a.test = false
	return &a
}

// newUndoing is errs.Conflict of what cannot be merged.
func newUndoing(st *manager.Status, name string) (*undoing, error) {
	lv, err := st.Group.FindLV(name)
	if err != nil {
		return nil, err
	}
	s, ok := st.Group.SnapshotOf(lv)
	if !ok {
		err := errNoSnapshot(st.Group, name)
		if own := st.Group.SnapshotsOf(lv); len(own) > 0 {
			err = errs.WithHint(err, "Name one of its snapshots, as %s.", fullName(st.Group.Name, own[0].Cow.Name))
		}
		return nil, err
	}
	u := &undoing{vg: st.Group.Name, snapshot: lv.Name, origin: s.Origin.Name, id: lv.ID, copied: -1, merging: s.Segment.Merging}
	if lv.CreationTime != 0 {
		u.taken = time.Unix(lv.CreationTime, 0).UTC()
	}
	origin, snapshot := u.names()
	cow := st.LVs[lv.Name].Cow
	if cow != nil && cow.Invalid {
		return nil, errs.WithHint(errs.E(errs.Corrupt, "Unable to merge invalidated snapshot LV %s: %s", snapshot, cow.Reason),
			"What it showed is lost; cowl lvremove %s removes it. A backup may still have it: cowl restore.", snapshot)
	}
	if cow != nil {
		u.copied = (cow.Allocated - cow.Metadata).Bytes()
	}
	if n := st.LVs[u.origin].Opens + st.LVs[lv.Name].Opens; n > 0 {
		u.warnings = append(u.warnings, fmt.Sprintf("%s or %s is in use: the merge will have to wait.", origin, snapshot))
	}
	u.warnOfRoom(st, s)
	return u, nil
}

// warnOfRoom tells of other snapshots of the origin that may fill up: to them the
// merge is so many writes.
func (u *undoing) warnOfRoom(st *manager.Status, merged volume.Snap) {
	for _, other := range st.Group.SnapshotsOf(merged.Origin) {
		cow := st.LVs[other.Cow.Name].Cow
		if other.Cow == merged.Cow || cow == nil || cow.Invalid || cow.Threshold > 0 {
			continue
		}
		if room := (cow.Total - cow.Allocated).Bytes(); room < u.copied {
			u.warnings = append(u.warnings, fmt.Sprintf("the merge writes up to %s, and snapshot %s has room for %s of that: it may overflow.",
				sizeText(u.copied), fullName(u.vg, other.Cow.Name), sizeText(room)))
		}
	}
}

// preview shows what the merge undoes. That nothing can be compared is said, and
// does not keep anybody from rolling back: a broken file system is a reason for it.
func (r *rollback) preview(ctx context.Context, u *undoing, report *rollbackReport) error {
	origin, snapshot := u.names()
	head := fmt.Sprintf("Rolling %s back to %s", origin, snapshot)
	if !u.taken.IsZero() {
		head += ", taken " + u.taken.In(r.Zone).Format(fields.TimeLayout)
	}
	r.say("%s", head)
	if r.blind {
		return nil
	}
	byFiles := !r.blocks
	if byFiles {
		err := r.compare(ctx, u, true, &report.Files)
		if ctx.Err() != nil {
			return err
		}
		if err != nil {
			r.say("By files that cannot be shown: %v", err)
			byFiles = false
		}
	}
	if !byFiles {
		if err := r.compare(ctx, u, false, &report.Blocks); ctx.Err() != nil {
			return err
		} else if err != nil {
			r.warn("What it undoes cannot be shown: %v", err)
		}
	}
	if u.copied >= 0 {
		r.say("At most %s are copied back.", sizeText(u.copied))
	}
	return nil
}

// previewLines is how many files are listed.
const previewLines = 40

// compare shows the difference from the origin to the snapshot, or puts it into
// the report.
func (r *rollback) compare(ctx context.Context, u *undoing, byFiles bool, report *json.RawMessage) error {
	a := r.real()
	var text bytes.Buffer
	o := &diffFlags{blocks: !byFiles, json: r.json, stat: r.json || !byFiles, noTimes: byFiles && !r.json}
	origin, snapshot := u.names()
	d := &comparing{diffFlags: o, a: a, at: [2]inside{{origin, "/"}, {snapshot, "/"}}}
	d.out = bufio.NewWriter(r.Stdout)
	if r.json {
		d.out = bufio.NewWriter(&text)
	}
	if !r.stat {
		d.lines = previewLines
	}
	open := a.opener(o.access)
	open.unwarned = true
	err := open.with(ctx, origin, func(x *source) error {
		return open.with(ctx, snapshot, func(y *source) error {
			if byFiles {
				return d.files(ctx, x, y)
			}
			return d.blocksOf(ctx, x, y)
		})
	})
	if errors.Is(err, errSilent) { // what could not be read was named
		err = nil
	}
	if err = errors.Join(err, d.out.Flush()); err != nil {
		return err
	}
	if r.json {
		*report = text.Bytes()
		return nil
	}
	if byFiles {
		if hidden := d.total.found() - d.lines; !r.stat && hidden > 0 {
			r.say("... and %d more: cowl diff %s %s lists all.", hidden, origin, snapshot)
		}
		r.say("%s", undoneText(&d.total, d.times))
	}
	return nil
}

// undoneText says what is undone if the differences are.
func undoneText(t *diffTotal, times int64) string {
	if t.found()+times == 0 {
		return "No file differs."
	}
	return "Files: " + countsText([]countOf{{t.Added, "coming back", t.AddedBytes}, {t.Removed, "lost", t.RemovedBytes}, {t.Renamed, "moving back", 0},
		{t.Changed + t.Metadata + t.Replaced, "becoming what they were", 0}, {times, "getting their old times", 0}})
}

// merge asks and merges.
func (r *rollback) merge(ctx context.Context, u *undoing) (mergeState, error) {
	origin, snapshot := u.names()
	if !u.merging {
		ok, err := r.confirm("Do you really want to undo all that was written to %s since, and remove %s?", origin, snapshot)
		if err != nil || !ok {
			return "", errors.Join(err, errors.New("Snapshot "+snapshot+" not merged."))
		}
	}
	state := mergeNotStarted
	err := r.withGroup(ctx, u.vg, func(g manager.Group, st *manager.Status) error {
		lv := st.Group.LV(u.snapshot)
		if lv == nil || lv.ID != u.id {
			return errs.WithHint(errs.E(errs.Conflict, "Snapshot %s is not the one that was shown any more.", snapshot), "Look again: cowl rollback %s", snapshot)
		}
		var err error
		if !st.Kernel && st.Owner == 0 && !r.background { // nobody has the group: it is active here until it is closed
			r.alone = true
			_, err = g.Activate(ctx, u.origin)
		}
		if err == nil {
			state, err = r.mergeOne(ctx, g, u.snapshot)
		}
		return err
	})
	return state, err
}
