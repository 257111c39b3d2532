package cli

import (
	"github.com/spf13/cobra"

	"cowl/internal/errs"
	"cowl/internal/volume"
)

func newVGCreate(a *app) *cobra.Command {
	layout, group := newLayoutFlags(), newGroupFlags()
	cmd := &cobra.Command{
		Use: "vgcreate [OPTION]... VG PV...", Short: "Create a volume group", GroupID: groupLVM,
		Long: `Create a volume group of physical volumes. Files and devices that are no
physical volumes yet become some, as with pvcreate.`,
		Example: `  cowl vgcreate vg disk.img
  cowl vgcreate -s 16M --addtag db vg disk1.img disk2.img`,
		Args: atLeast(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := groupName(args[0])
			if err != nil {
				name = args[0] // for CheckGroupName to complain of
			}
			if err := volume.CheckGroupName(name); err != nil {
				return usageError(cmd, err)
			}
			a.testMode()
			if a.test {
				return a.tryCreateGroup(cmd, group.spec(name), args[1:], layout.force)
			}
			r, err := a.host().CreateGroup(cmd.Context(), group.spec(name), args[1:], a.pvCreate(&layout))
			a.sayResult(r)
			if err == nil {
				a.say("Volume group %q successfully created", name)
			}
			return usageError(cmd, err)
		},
	}
	group.add(cmd)
	layout.add(cmd.Flags())
	cmd.Flags().CountVarP(&layout.force, "force", "f", "accepted for LVM's sake")
	return cmd
}

func (a *app) tryCreateGroup(cmd *cobra.Command, spec volume.GroupSpec, pvs []string, force int) error {
	inv, err := a.scan(cmd.Context())
	if err != nil {
		return err
	}
	if inv.Group(spec.Name) != nil {
		return errs.E(errs.Exists, "A volume group called %s already exists.", spec.Name)
	}
	for _, name := range pvs {
		if err := a.tryPV(cmd.Context(), name, 0); err != nil {
			return err
		}
		if pv, _ := inv.PV(name); pv == nil || !pv.Labelled {
			a.say("Physical volume %q successfully created.", name)
		}
	}
	a.say("Volume group %q successfully created", spec.Name)
	return nil
}
