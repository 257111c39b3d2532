package cli

import (
	"github.com/spf13/cobra"

	"cowl/internal/errs"
)

func newPVRemove(a *app) *cobra.Command {
	var o layoutFlags
	cmd := &cobra.Command{
		Use: "pvremove [OPTION]... PV...", Short: "Make physical volumes plain files or devices again", GroupID: groupLVM,
		Long: `Take LVM's label off physical volumes. They must be in no group: vgreduce or
vgremove come first. The rest of the device stays as it is.`,
		Example: `  cowl pvremove disk.img
  cowl pvremove -ff -y disk.img    # although a group uses it`,
		Args: atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a.testMode()
			if a.test {
				return a.tryRemovePVs(cmd, args, o.force)
			}
			r, err := a.host().RemovePVs(cmd.Context(), args, a.pvCreate(&o))
			a.sayResult(r)
			return usageError(cmd, err)
		},
	}
	cmd.Flags().CountVarP(&o.force, "force", "f", "twice: although a group uses the PV")
	return cmd
}

func (a *app) tryRemovePVs(cmd *cobra.Command, args []string, force int) error {
	inv, err := a.scan(cmd.Context())
	if err != nil {
		return err
	}
	for _, name := range args {
		switch pv, group := inv.PV(name); {
		case pv == nil || !pv.Labelled:
			return errs.E(errs.NotFound, "No PV found on device %s.", name)
		case group != nil && force < 2:
			return errs.E(errs.Conflict, "PV %s is used by VG %s so please use vgreduce first.\n%s: physical volume label not removed.", name, group.Meta.Name, name)
		}
		a.say("Labels on physical volume %q successfully wiped.", name)
	}
	return nil
}
