package cli

import (
	"context"

	"github.com/spf13/cobra"

	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

func newVGChange(a *app) *cobra.Command {
	activate := newActivation()
	cmd := &cobra.Command{
		Use: "vgchange -a y|n [OPTION]... [VG|@TAG]...", Short: "Activate or deactivate volume groups", GroupID: groupLVM,
		Long: `Activate all volumes of groups, or deactivate them; without arguments, of all
groups.

Activation starts one daemon a group, which owns it until it is deactivated.
Its volumes are then NBD exports on a unix socket and, where FUSE works, files;
cowl lvdisplay says where. Other cowl commands reach the group through it.`,
		Example: `  cowl vgchange -ay vg
  cowl vgchange -an vg
  cowl vgchange -an                 # everything`,
		Args: func(cmd *cobra.Command, _ []string) error {
			if !activate.given {
				return noSyntax(cmd)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeGroups(cmd, args, activate.value)
		},
	}
	flagOf(cmd.Flags(), &activate, "activate", "a", "make the groups' volumes available, or take them away")
	return cmd
}

func (a *app) changeGroups(cmd *cobra.Command, args []string, activate bool) error {
	targets, err := a.groupTargets(cmd, args)
	if err != nil {
		return err
	}
	a.testMode()
	return a.each(targets, func(t target) error {
		if activate {
			return a.activateGroup(cmd.Context(), t.group)
		}
		return a.deactivateGroup(cmd.Context(), t.group)
	})
}

// groupTargets returns the groups that the arguments name; all without any.
func (a *app) groupTargets(cmd *cobra.Command, args []string) ([]target, error) {
	if len(args) == 0 {
		data, err := a.inventory(cmd.Context())
		if err != nil {
			return nil, err
		}
		var all []target
		for _, g := range data.Groups {
			all = append(all, target{group: g.Meta.Name})
		}
		return all, nil
	}
	targets, err := a.targets(cmd.Context(), args)
	for _, t := range targets {
		if t.names != nil {
			return nil, usage(cmd, "Invalid volume group name %s.", fullName(t.group, t.names[0]))
		}
	}
	return targets, err
}

func (a *app) activateGroup(ctx context.Context, name string) error {
	r, err := a.activateTarget(ctx, target{group: name})
	if r != nil {
		a.tell(r.Notes)
	}
	return a.sayActive(ctx, name, err)
}

func (a *app) deactivateGroup(ctx context.Context, name string) error {
	inv, err := a.scan(ctx)
	if err != nil {
		return err
	}
	switch g := inv.Group(name); {
	case g == nil:
		return noGroup(name)
	case g.Meta.Has(volume.StatusExported):
		return errs.E(errs.Conflict, "Volume group %s is exported", name)
	case g.Owner == 0 && !g.Kernel: // nothing is active, and nobody needs the PVs' locks for that
		return a.sayActive(ctx, name, nil)
	}
	err = a.withGroup(ctx, name, func(g manager.Group, s *manager.Status) error {
		r, err := g.Deactivate(ctx)
		a.sayResult(r)
		if open := openVolumes(s); err != nil && open > 0 {
			return errs.E(errs.Busy, "%w\nCan't deactivate volume group %q with %d open logical volume(s)", err, name, open)
		}
		return err
	})
	if err != nil {
		return err
	}
	return a.sayActive(ctx, name, nil)
}

func openVolumes(s *manager.Status) int {
	n := 0
	for _, lv := range s.LVs {
		if lv.Opens > 0 {
			n++
		}
	}
	return n
}

// sayActive says how many volumes of the group are active, whatever went wrong.
func (a *app) sayActive(ctx context.Context, name string, failed error) error {
	data, err := a.inventory(ctx)
	if err != nil {
		if failed == nil {
			failed = err
		}
		return failed
	}
	if g := findGroup(data, name); g != nil {
		n := 0
		for _, lv := range g.Meta.LVs {
			if g.Visible(lv) && g.Active(lv) != nil {
				n++
			}
		}
		a.say("%d logical volume(s) in volume group %q now active", n, name)
	}
	return failed
}
