package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// openGroup opens a group for changes: through the daemon that owns it, in this
// process, or through lvm2. With --test nothing is changed: it is a dry run, or
// lvm2's own. The caller closes it.
func (a *app) openGroup(ctx context.Context, name string) (manager.Group, error) {
	settings := a.settings()
	g, err := a.host().OpenGroup(ctx, name)
	if errs.Is(err, errs.NotFound) {
		return nil, noGroup(name)
	}
	if err != nil {
		return nil, err
	}
	if !a.test {
		return g, nil
	}
	if hosted, ok := g.(*manager.Hosted); ok {
		hosted.Rehearse()
		return hosted, nil
	}
	dry, err := newDry(ctx, g, a.Now().Unix())
	if err != nil {
		return nil, err
	}
	dry.growth = settings.Growth
	return dry, nil
}

// withGroup runs f with a group that is open for changes, and closes it.
func (a *app) withGroup(ctx context.Context, name string, f func(manager.Group, *manager.Status) error) error {
	g, err := a.openGroup(ctx, name)
	if err != nil {
		return err
	}
	s, err := g.Status(ctx)
	if err == nil && s.Group.Has(volume.StatusExported) {
		err = errs.E(errs.Conflict, "Volume group %s is exported", name)
	}
	if err == nil {
		err = f(g, s)
	}
	return errors.Join(err, g.Close())
}

// openedGroup is a group that is open for changes, with what is meant of it.
type openedGroup struct {
	manager.Group
	target target
	status *manager.Status
}

// withGroups runs f with the groups of the targets, which are open for changes, and
// closes them.
func (a *app) withGroups(ctx context.Context, targets []target, f func([]openedGroup) error) error {
	return a.withGroupsBeside(ctx, targets, nil, f)
}

func (a *app) withGroupsBeside(ctx context.Context, targets []target, opened []openedGroup, f func([]openedGroup) error) error {
	if len(targets) == 0 {
		return f(opened)
	}
	return a.withGroup(ctx, targets[0].group, func(g manager.Group, st *manager.Status) error {
		return a.withGroupsBeside(ctx, targets[1:], append(opened, openedGroup{g, targets[0], st}), f)
	})
}

// testMode says so once, as LVM does.
func (a *app) testMode() {
	if a.test && !a.dryRun {
		a.dryRun = true
		a.note("TEST MODE: Metadata will NOT be updated and volumes will not be (de)activated.")
	}
}

// target is what a verb does something to: all visible volumes of a group, or
// those that were named.
type target struct {
	group string
	names []string // nil: the whole group
}

// targets sorts arguments (VG, VG/LV, @TAG) by group, in the order in which
// groups were named.
func (a *app) targets(ctx context.Context, args []string) ([]target, error) {
	var out []target
	add := func(group string, names ...string) {
		i := slices.IndexFunc(out, func(t target) bool { return t.group == group })
		if i < 0 {
			out = append(out, target{group: group, names: []string{}})
			i = len(out) - 1
		}
		if len(names) == 0 {
			out[i].names = nil
		}
		if out[i].names != nil {
			for _, n := range names {
				if !slices.Contains(out[i].names, n) {
					out[i].names = append(out[i].names, n)
				}
			}
		}
	}
	for _, arg := range args {
		if tag, ok := strings.CutPrefix(arg, "@"); ok {
			if err := a.tagged(ctx, tag, add); err != nil {
				return nil, err
			}
			continue
		}
		n, err := splitName(arg)
		if err != nil {
			return nil, err
		}
		if n.LV == "" {
			add(n.VG)
		} else {
			add(n.VG, n.LV)
		}
	}
	return out, nil
}

// tagged adds what bears a tag.
func (a *app) tagged(ctx context.Context, tag string, add func(string, ...string)) error {
	data, err := a.inventory(ctx)
	if err != nil {
		return err
	}
	for _, g := range data.Groups {
		if slices.Contains(g.Meta.Tags, tag) {
			add(g.Meta.Name)
			continue
		}
		for _, lv := range g.Volumes(false) {
			if slices.Contains(lv.Tags, tag) {
				add(g.Meta.Name, lv.Name)
			}
		}
	}
	return nil
}

// volumes returns the volumes that a target means, and complains of those
// that do not exist.
func (a *app) volumes(t target, s *manager.Status) (names []string, missing error) {
	if t.names == nil {
		for _, lv := range s.Group.Visible() {
			names = append(names, lv.Name)
		}
		return names, nil
	}
	for _, n := range t.names {
		if _, err := s.Group.FindLV(n); err != nil {
			a.complain(err)
			missing = errSilent
			continue
		}
		names = append(names, n)
	}
	return names, missing
}

// eachTarget runs f for every group that the arguments name. It goes on past
// failures, which it reports.
func (a *app) eachTarget(cmd *cobra.Command, args []string, f func(target, manager.Group, *manager.Status) error) error {
	targets, err := a.targets(cmd.Context(), args)
	if err != nil {
		return err
	}
	a.testMode()
	return a.each(targets, func(t target) error {
		return a.withGroup(cmd.Context(), t.group, func(g manager.Group, s *manager.Status) error { return f(t, g, s) })
	})
}

// each runs f for every target, goes on past failures and reports them.
func (a *app) each(targets []target, f func(target) error) error {
	var failed error
	for _, t := range targets {
		if err := f(t); err != nil {
			a.complain(err)
			failed = coded{errSilent, max(exitCode(failed), exitCode(err))}
		}
	}
	return failed
}

// family returns the volumes that are active or not together with the named
// one: its origin and the origin's snapshots.
func family(g *volume.Group, lv *volume.LV) (origin *volume.LV, snapshots []volume.Snap) {
	if s, ok := g.SnapshotOf(lv); ok {
		lv = s.Origin
	}
	return lv, g.SnapshotsOf(lv)
}

// fullName is a volume's name for messages.
func fullName(vg, lv string) string { return fmt.Sprintf("%s/%s", vg, lv) }
