package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cowl/internal/backup"
	"cowl/internal/backup/repo"
	"cowl/internal/backup/repo/targets"
	"cowl/internal/errs"
)

// forgetFlags are the options of cowl forget.
type forgetFlags struct {
	keep   backup.Retention
	prune  bool
	json   bool
	access accessFlags
}

func newForget(a *app) *cobra.Command {
	var o forgetFlags
	cmd := &cobra.Command{
		Use: "forget TARGET [VG/LV|VG...] --keep-... | TARGET::BACKUP... [OPTION]...", Short: "Take old backups off the list", GroupID: groupOwn,
		Long: `Forget backups: of each volume in the target those that no rule keeps, or the
ones that are named. A rule keeps the latest backup of each of the latest so
many hours, days, weeks, months or years that have one; --keep-last keeps the
latest whatever their times. What any rule keeps is kept, and the latest backup
of a volume always is.

In a directory the images are deleted. In a repository the space is freed by
--prune or cowl repo maintain. With --test cowl says what it would forget.

` + passwordHelp,
		Example: `  cowl forget repo:/backups/cowl --keep-daily 7 --keep-weekly 4 --keep-monthly 12 --prune
  cowl forget /backups server1/root --keep-last 3
  cowl forget repo:/backups/cowl::3f2a91c0`,
		Args: atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, a, args) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.IntVar(&o.keep.Last, "keep-last", 0, "keep the latest `N`")
	f.IntVar(&o.keep.Hourly, "keep-hourly", 0, "keep one of each of the latest `N` hours")
	f.IntVar(&o.keep.Daily, "keep-daily", 0, "keep one of each of the latest `N` days")
	f.IntVar(&o.keep.Weekly, "keep-weekly", 0, "keep one of each of the latest `N` weeks")
	f.IntVar(&o.keep.Monthly, "keep-monthly", 0, "keep one of each of the latest `N` months")
	f.IntVar(&o.keep.Yearly, "keep-yearly", 0, "keep one of each of the latest `N` years")
	f.DurationVar(&o.keep.Within, "keep-within", 0, "keep all of this `time` before the latest (72h)")
	f.BoolVar(&o.prune, "prune", false, "free the space in the repository at once")
	o.access.add(f)
	f.BoolVar(&o.json, "json", false, "print one JSON object instead of lines")
	return cmd
}

func (o *forgetFlags) run(cmd *cobra.Command, a *app, args []string) error {
	t, name, err := targets.Parse(args[0])
	if err != nil {
		return usageError(cmd, err)
	}
	named := []string{}
	if name != "" {
		if o.keep != (backup.Retention{}) {
			return usage(cmd, "Name backups or give rules, not both.")
		}
		for _, arg := range args {
			other, name, err := targets.Parse(arg)
			if err != nil || name == "" || other.String() != t.String() {
				return usage(cmd, "%s is no backup in %s.", arg, t)
			}
			named = append(named, name)
		}
	} else if err := o.keep.Check(); err != nil {
		return usageError(cmd, errs.WithHint(err, "Use --keep-last, --keep-daily and the like, or name backups as %s::BACKUP.", t))
	}
	if o.prune && !t.IsRepository() {
		return usage(cmd, "--prune is for repositories; images are deleted at once.")
	}
	var volumes []lvName
	if name == "" {
		for _, arg := range args[1:] {
			n, err := splitName(arg)
			if err == nil && n.LV == "" && a.Getenv("LVM_VG_NAME") != "" {
				n, err = a.lvArg(arg)
			}
			if err != nil {
				return usageError(cmd, err)
			}
			volumes = append(volumes, n)
		}
	}
	return o.forget(cmd.Context(), a, t, named, volumes)
}

// forgotten is what --json prints.
type forgotten struct {
	Forgotten   []string            `json:"forgotten"`
	Kept        map[string][]string `json:"kept"` // by which rules
	Maintenance *repo.Maintenance   `json:"maintenance,omitempty"`
}

func (o *forgetFlags) forget(ctx context.Context, a *app, t targets.Target, named []string, volumes []lvName) error {
	if !t.IsRepository() {
		all, err := a.backups(ctx, t, o.access)
		if err != nil {
			return err
		}
		return o.decide(a, t, all, named, volumes, nil, func(gone []listed) ([]listed, error) {
			for _, l := range gone {
				if err := backup.RemoveImage(l.image.Image); err != nil {
					return nil, err
				}
			}
			return gone, nil
		})
	}
	return a.withRepo(ctx, t, o.access, false, func(r *repo.Repo) error {
		all, err := storedBackups(ctx, r)
		if err != nil {
			return err
		}
		maintain := func() (*repo.Maintenance, error) { return r.Maintain(ctx) }
		if !o.prune {
			maintain = nil
		}
		return o.decide(a, t, all, named, volumes, maintain, func(gone []listed) ([]listed, error) { return o.deleteStored(ctx, a, r, gone) })
	})
}

// deleteStored takes backups off a repository's list, but for those that
// somebody is building on, or reading, and returns those that are gone.
func (o *forgetFlags) deleteStored(ctx context.Context, a *app, r *repo.Repo, gone []listed) ([]listed, error) {
	locks, err := r.Locks(ctx)
	if err != nil {
		return nil, err
	}
	used := map[string]*repo.LockInfo{}
	for _, l := range locks {
		if l.Base != "" && l.Stale == "" {
			used[l.Base] = l
		}
	}
	var out []*repo.Backup
	free := []listed{}
	for _, l := range gone {
		if lock := used[l.ID]; lock != nil {
			a.warn("%s is kept for now: %s needs it", short(l.ID), lock)
			continue
		}
		out, free = append(out, l.stored), append(free, l)
	}
	return free, r.Delete(ctx, out)
}

// decide forgets what is to be forgotten, and says so.
func (o *forgetFlags) decide(a *app, t targets.Target, all []listed, named []string, volumes []lvName, maintain func() (*repo.Maintenance, error), remove func([]listed) ([]listed, error)) error {
	gone, kept, err := o.choose(a, t, all, named, volumes)
	if err != nil {
		return err
	}
	report := forgotten{Forgotten: []string{}, Kept: kept}
	if !a.test && len(gone) > 0 {
		if gone, err = remove(gone); err != nil {
			return err
		}
	}
	for _, l := range gone {
		report.Forgotten = append(report.Forgotten, l.ID)
	}
	if !a.test && maintain != nil {
		if report.Maintenance, err = maintain(); err != nil && report.Maintenance == nil {
			return err
		}
	}
	if o.json {
		return errors.Join(a.sayJSON(report), err)
	}
	word := "Forgot"
	if a.test {
		word = "Would forget"
	}
	for _, l := range gone {
		a.say("%s %s of %s/%s at %s.", word, short(l.ID), l.VG, l.LV, l.Time.In(a.Zone).Format("2006-01-02 15:04:05 -0700"))
	}
	a.say("%d forgotten, %d kept.", len(gone), len(all)-len(gone))
	if report.Maintenance != nil {
		a.sayMaintenance(t, report.Maintenance)
	}
	return err
}

// choose sorts backups into those to forget and those to keep, and why.
func (o *forgetFlags) choose(a *app, t targets.Target, all []listed, named []string, volumes []lvName) (gone []listed, kept map[string][]string, err error) {
	kept = map[string][]string{}
	if len(named) > 0 {
		for _, name := range named {
			l, err := findListed(t, all, name)
			if err != nil {
				return nil, nil, err
			}
			gone = append(gone, l)
		}
		return gone, kept, nil
	}
	groups, order := map[string][]listed{}, []string{}
	found := map[lvName]bool{}
	for _, l := range all {
		name, group := lvName{l.VG, l.LV}, lvName{VG: l.VG}
		if l.stored != nil && l.stored.Pinned {
			kept[l.ID] = []string{"pinned"} // by the stock kopia
			continue
		}
		if l.Fault != "" || len(volumes) > 0 && !slices.Contains(volumes, name) && !slices.Contains(volumes, group) {
			continue // what cannot be told to be old is kept
		}
		found[name], found[group] = true, true
		if groups[l.LVUUID] == nil {
			order = append(order, l.LVUUID)
		}
		groups[l.LVUUID] = append(groups[l.LVUUID], l)
	}
	for _, v := range volumes {
		if !found[v] {
			return nil, nil, errs.E(errs.NotFound, "%s has no backup of %s", t, v)
		}
	}
	for _, uuid := range order {
		var times []time.Time
		for _, l := range groups[uuid] {
			times = append(times, l.Time.In(a.Zone))
		}
		for i, why := range o.keep.Keep(times) {
			if len(why) == 0 {
				gone = append(gone, groups[uuid][i])
			} else {
				kept[groups[uuid][i].ID] = why
			}
		}
	}
	return gone, kept, nil
}

// findListed finds the backup that a person means among those listed.
func findListed(t targets.Target, all []listed, name string) (listed, error) {
	var found []listed
	for _, l := range all {
		if l.ID == name {
			return l, nil
		}
		if t.IsRepository() && len(name) >= 4 && strings.HasPrefix(l.ID, name) {
			found = append(found, l)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return listed{}, errs.WithHint(errs.E(errs.NotFound, "no backup %q in %s", name, t), "cowl list %s shows which there are.", t)
	}
	return listed{}, fmt.Errorf("%d backups begin with %q", len(found), name)
}
