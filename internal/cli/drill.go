package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"cowl/internal/backup"
	"cowl/internal/backup/repo"
	"cowl/internal/backup/repo/targets"
	"cowl/internal/errs"
)

// drillFlags are the options of cowl drill.
type drillFlags struct {
	json    bool
	dir     string
	command textOption
	timeout option[time.Duration]
	access  accessFlags
}

func newDrill(a *app) *cobra.Command {
	o := drillFlags{command: newText("COMMAND"), timeout: durationOption()}
	o.timeout.value = time.Hour
	cmd := &cobra.Command{
		Use: "drill IMAGE|TARGET::BACKUP|TARGET... [OPTION]...", Short: "Prove that backups can be restored, by restoring them", GroupID: groupOwn,
		Long: `Restore a backup into a scratch file, compare that with what the backup should be,
have e2fsck -fn or xfs_repair -n look at the file system in it, and say whether
all of that is good. The journal of a file system that was in use is replayed
first. The scratch file is removed; nothing else is written.

Of a target as such everything is verified first, as cowl verify does, and then
the latest backup of each volume is restored.

--run has a command of the shell look at the result. As root the file system is
mounted read-only, where nobody else sees it, and $COWL_MOUNT is the way there;
otherwise there is $COWL_IMAGE only. Archives are read to their ends.

The exit code is 0 if all is good, 1 if something could not be tried (no checker,
say), and 5 if a backup is not good.

` + passwordHelp,
		Example: `  cowl drill repo:/backups/cowl
  cowl drill repo:/backups/cowl::server1/db --dir /scratch
  cowl drill /backups/server1-root.20260102T030405Z.raw --run 'test -f "$COWL_MOUNT/etc/fstab"'
  cowl drill /backups --json`,
		Args: atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, a, args) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.dir, "dir", "", "make scratch files in this `directory`")
	flagOf(f, &o.command, "run", "", "run this on what was restored")
	flagOf(f, &o.timeout, "run-timeout", "", "how long that may take (1h)")
	o.access.add(f)
	f.BoolVar(&o.json, "json", false, "print one JSON object instead of lines")
	return cmd
}

// drillReports is what --json prints.
type drillReports struct {
	Good   bool                   `json:"good"`
	Drills []*backup.DrillReport  `json:"drills"`
	Images []*backup.VerifyReport `json:"images,omitempty"`       // of directories, verified first
	Repos  []*repo.Verification   `json:"repositories,omitempty"` // the same
}

func (o *drillFlags) run(cmd *cobra.Command, a *app, args []string) error {
	out := drillReports{Drills: []*backup.DrillReport{}}
	var failed error
	for _, arg := range args {
		t, name, err := targets.Parse(arg)
		if err != nil {
			return usageError(cmd, err)
		}
		err = o.target(cmd.Context(), a, t, name, &out)
		if cmd.Context().Err() != nil {
			return err
		}
		if err != nil {
			a.complain(err)
			failed = coded{errSilent, max(exitCode(failed), exitCode(err))}
		}
	}
	out.Good = failed == nil || exitCode(failed) == exitIncomplete
	if o.json {
		return errors.Join(a.sayJSON(out), failed)
	}
	return failed
}

// target drills a backup, or all that is to be drilled of a target.
func (o *drillFlags) target(ctx context.Context, a *app, t targets.Target, name string, out *drillReports) error {
	whole := name == ""
	if st, err := os.Stat(t.Path); whole && !t.IsRepository() && (err != nil || !st.IsDir()) {
		return o.drill(ctx, a, backup.DrillOptions{Image: t.Path}, out)
	}
	var failed error
	if whole {
		if failed = o.verify(ctx, a, t, out); ctx.Err() != nil {
			return failed
		}
	}
	if !t.IsRepository() {
		return errors.Join(failed, o.images(ctx, a, t, name, out))
	}
	return errors.Join(failed, a.withRepo(ctx, t, o.access, true, func(r *repo.Repo) error {
		return a.withShared(ctx, r, "drill", func(ctx context.Context) error { return o.stored(ctx, a, t, r, name, out) })
	}))
}

// verify verifies a target as a whole.
func (o *drillFlags) verify(ctx context.Context, a *app, t targets.Target, out *drillReports) error {
	v := verifyFlags{json: o.json, restart: true, access: o.access}
	var r verifyReports
	var err error
	if t.IsRepository() {
		err = v.repository(ctx, a, t, "", &r)
	} else {
		err = v.images(ctx, a, t, "", &r)
	}
	out.Images, out.Repos = append(out.Images, r.Images...), append(out.Repos, r.Repositories...)
	return err
}

// images drills images in a directory: the one that is named, or the latest of
// each volume.
func (o *drillFlags) images(ctx context.Context, a *app, t targets.Target, name string, out *drillReports) error {
	if name != "" {
		return o.drill(ctx, a, backup.DrillOptions{Image: filepath.Join(t.Path, name)}, out)
	}
	lines, err := a.backups(ctx, t, o.access)
	if err != nil {
		return err
	}
	var failed error
	for _, l := range latest(lines) {
		if err := o.drill(ctx, a, backup.DrillOptions{Image: l.image.Image}, out); err != nil {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// stored drills backups in a repository in the same way.
func (o *drillFlags) stored(ctx context.Context, a *app, t targets.Target, r *repo.Repo, name string, out *drillReports) error {
	if name != "" {
		b, err := r.Find(ctx, name)
		if err != nil {
			return err
		}
		return o.drill(ctx, a, backup.DrillOptions{Image: t.String() + "::" + short(b.ID), Repo: r, Backup: b}, out)
	}
	lines, err := storedBackups(ctx, r)
	if err != nil {
		return err
	}
	if len(lines) == 0 {
		return errs.E(errs.NotFound, "there are no backups in %s", t)
	}
	var failed error
	for _, l := range latest(lines) {
		err := o.drill(ctx, a, backup.DrillOptions{Image: t.String() + "::" + short(l.ID), Repo: r, Backup: l.stored}, out)
		failed = errors.Join(failed, err)
	}
	return failed
}

// latest returns the latest backup of each volume, in the order of the list.
func latest(lines []listed) (out []listed) {
	last := map[string]int{}
	for i, l := range lines {
		last[l.LVUUID] = i
	}
	for i, l := range lines {
		if l.Fault == "" && last[l.LVUUID] == i {
			out = append(out, l)
		}
	}
	return out
}

func (o *drillFlags) drill(ctx context.Context, a *app, options backup.DrillOptions, out *drillReports) error {
	p := a.newProgress()
	options.Dir, options.Command, options.Limit, options.Output, options.Reporter = o.dir, o.command.value, o.timeout.value, a.Stderr, p.reporter()
	r, err := backup.Drill(ctx, options)
	p.end()
	if r == nil {
		return err
	}
	out.Drills = append(out.Drills, r)
	if o.json {
		return err
	}
	verdict := "good"
	if !r.Good {
		verdict = "NOT GOOD"
	}
	a.say("%s: %s, %s/%s at %s, %v.", r.Backup, verdict, r.VG, r.LV, r.Time.In(a.Zone).Format("2006-01-02 15:04:05 -0700"),
		time.Duration(r.Seconds*float64(time.Second)).Round(10*time.Millisecond))
	for _, s := range r.Steps {
		mark := "ok"
		switch {
		case s.Skipped:
			mark = "not tried"
		case !s.Good:
			mark = "FAILED"
		}
		a.say("  %-11s  %s: %s", s.Name, mark, s.Detail)
	}
	return err
}
