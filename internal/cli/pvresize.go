package cli

import (
	"context"

	"github.com/spf13/cobra"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

func newPVResize(a *app) *cobra.Command {
	size := sizeOption('m')
	cmd := &cobra.Command{
		Use: "pvresize [OPTION]... PV...", Short: "Have physical volumes take over their devices' new sizes", GroupID: groupLVM,
		Long: `Have physical volumes use all of their files or devices when these have become
larger, also while their group is active. Before a file or device is made smaller,
--setphysicalvolumesize takes the extents behind that size away, if none of them is
in use.`,
		Example: `  truncate -s +10G disk.img ; cowl pvresize disk.img
  cowl pvresize --setphysicalvolumesize 20G disk.img ; truncate -s 20G disk.img`,
		Args: atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a.testMode()
			return a.resizePVs(cmd.Context(), args, size.value)
		},
	}
	flagOf(cmd.Flags(), &size, "setphysicalvolumesize", "", "use this much of the device")
	return cmd
}

// resizePVs resizes each, whatever becomes of the others, and says how many were.
func (a *app) resizePVs(ctx context.Context, paths []string, size int64) error {
	inv, err := a.scan(ctx)
	if err != nil {
		return err
	}
	var failed error
	done, not := 0, 0
	for _, path := range paths {
		pv, group := inv.PV(path)
		switch {
		case pv == nil:
			err = errs.E(errs.NotFound, "Cannot use %s: device not found", path)
		case !pv.Labelled:
			err = errs.E(errs.NotFound, "Failed to find physical volume %q.", path)
		default:
			if err = a.resizePV(ctx, path, group, size); err != nil {
				not++
			} else {
				done++
			}
		}
		if err != nil {
			a.complain(err)
			failed = errSilent
		}
	}
	a.say("%d physical volume(s) resized or updated / %d physical volume(s) not resized", done, not)
	return failed
}

func (a *app) resizePV(ctx context.Context, path string, group *manager.GroupInfo, size int64) error {
	if size != 0 {
		if err := a.pretend(path, size); err != nil {
			return err
		}
	}
	var r *manager.Result
	var err error
	switch {
	case group != nil:
		err = a.withGroup(ctx, group.Meta.Name, func(g manager.Group, _ *manager.Status) error {
			r, err = g.ResizePV(ctx, path, size)
			return err
		})
	case !a.test:
		r, err = a.host().ResizePV(ctx, path, size)
	}
	if err != nil {
		return err
	}
	a.say("Physical volume %q changed", path)
	a.sayResult(r)
	return nil
}

// pretend asks whether a device is to have another size than it has.
func (a *app) pretend(path string, size int64) error {
	real, err := deviceSize(path)
	if err != nil || size == real {
		return err
	}
	than := "is less than"
	if size > real {
		than = "exceeds"
	}
	yes, err := a.confirm("%s: Requested size %s %s real size %s. Proceed? ", path, volume.LongSize(size), than, volume.LongSize(real))
	if err != nil {
		return err
	}
	if !yes {
		return errs.E(errs.Conflict, "Physical Volume %s not resized.", path)
	}
	if size > real {
		a.warn("%s: Overriding real size %s. You could lose data.", path, volume.LongSize(real))
	}
	a.warn("%s: Pretending size is %d not %d sectors.", path, size/block.SectorSize, real/block.SectorSize)
	return nil
}

// deviceSize returns how large a file or device is now, bytes.
func deviceSize(path string) (int64, error) {
	dev, err := manager.OpenDevice(path)
	if err != nil {
		return 0, err
	}
	defer dev.Close()
	return dev.Size(), nil
}
