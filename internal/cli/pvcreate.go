package cli

import (
	"github.com/spf13/cobra"
)

func newPVCreate(a *app) *cobra.Command {
	o := newLayoutFlags()
	cmd := &cobra.Command{
		Use: "pvcreate [OPTION]... FILE|DEVICE...", Short: "Make physical volumes of files, partitions or disks", GroupID: groupLVM,
		Long: `Make physical volumes: write LVM's label and an empty metadata area. What else
was on the device is lost; where something is recognised there (a file system, a
partition table), cowl asks first.

The devices are noted in the devices file, so that other commands find them. A
partition is named after its disk: disk.img#5 is the fifth of disk.img.`,
		Example: `  truncate -s 10G disk.img ; cowl pvcreate disk.img
  cowl pvcreate --metadatacopies 2 disk1.img disk2.img`,
		Args: atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a.testMode()
			if a.test {
				return a.tryCreatePVs(cmd, args, o.force)
			}
			r, err := a.host().CreatePVs(cmd.Context(), args, a.pvCreate(&o))
			a.sayResult(r)
			return usageError(cmd, err)
		},
	}
	o.add(cmd.Flags())
	flagOf(cmd.Flags(), &o.size, "setphysicalvolumesize", "", "use this much of the device")
	cmd.Flags().CountVarP(&o.force, "force", "f", "twice: take the device away from its group")
	return cmd
}

func (a *app) tryCreatePVs(cmd *cobra.Command, args []string, force int) error {
	for _, name := range args {
		if err := a.tryPV(cmd.Context(), name, force); err != nil {
			return err
		}
		a.say("Physical volume %q successfully created.", name)
	}
	return nil
}
