package cli

import (
	"github.com/spf13/cobra"

	"cowl/internal/manager"
)

func newVGExtend(a *app) *cobra.Command {
	layout := newLayoutFlags()
	cmd := &cobra.Command{
		Use: "vgextend [OPTION]... VG PV...", Short: "Add physical volumes to a group", GroupID: groupLVM,
		Long: `Add physical volumes to a volume group, also while it is active. Files and
devices that are no physical volumes yet become some, as with pvcreate.`,
		Example: `  truncate -s 60G usb.img
  cowl vgextend vg usb.img
  cowl vgs -o +vg_free_count vg`,
		Args: atLeast(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := groupName(args[0])
			if err == nil {
				a.testMode()
				err = a.extendGroup(cmd, name, args[1:], &layout)
			}
			return usageError(cmd, err)
		},
	}
	layout.add(cmd.Flags())
	cmd.Flags().CountVarP(&layout.force, "force", "f", "accepted for LVM's sake")
	return cmd
}

// extendGroup first makes PVs of what is none, while nothing is open: that may
// ask questions.
func (a *app) extendGroup(cmd *cobra.Command, name string, pvs []string, layout *layoutFlags) error {
	inv, err := a.scan(cmd.Context())
	if err != nil {
		return err
	}
	if inv.Group(name) == nil {
		return noGroup(name)
	}
	for _, path := range pvs {
		if pv, _ := inv.PV(path); pv != nil && pv.Labelled {
			continue
		}
		if a.test {
			if err := a.tryCreatePVs(cmd, []string{path}, 0); err != nil {
				return err
			}
			continue
		}
		r, err := a.host().CreatePVs(cmd.Context(), []string{path}, a.pvCreate(layout))
		a.sayResult(r)
		if err != nil {
			return err
		}
	}
	return a.withGroup(cmd.Context(), name, func(g manager.Group, _ *manager.Status) error {
		r, err := g.AddPVs(cmd.Context(), pvs)
		if err != nil {
			return err
		}
		a.sayResult(r)
		a.say("Volume group %q successfully extended", name)
		return nil
	})
}
