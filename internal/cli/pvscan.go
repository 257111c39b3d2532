package cli

import (
	"github.com/spf13/cobra"

	"cowl/internal/cli/fields"
	"cowl/internal/volume"
)

func newPVScan(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "pvscan [OPTION]...", Short: "List the physical volumes that are found", GroupID: groupLVM,
		Long:    "Look at all devices that cowl may look at, and list the physical volumes among them.",
		Example: "  cowl pvscan",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			data, err := a.inventory(cmd.Context())
			if err != nil {
				return err
			}
			a.sayScan(data)
			return nil
		},
	}
}

// sayScan prints a line for every PV, in columns, and the sums.
func (a *app) sayScan(data *fields.Data) {
	var used, total int64
	count, width, nameWidth := 0, 0, 0
	each := func(f func(*fields.PV)) {
		for _, g := range data.Groups {
			for _, pv := range g.PVs {
				f(pv)
			}
		}
		for _, pv := range data.Orphans {
			f(pv)
		}
	}
	each(func(pv *fields.PV) {
		width = max(width, len(pv.Path))
		if pv.Group != nil {
			nameWidth = max(nameWidth, len(pv.Group.Meta.Name))
			used += pv.Size()
			count++
		}
		total += pv.Size()
	})
	n := 0
	each(func(pv *fields.PV) {
		n++
		size := volume.LongSize(pv.Size())
		if pv.Group == nil {
			a.say("PV %-*s    %-*s lvm2 [%s]", width, pv.Path, nameWidth, "", size)
			return
		}
		a.say("PV %-*s VG %-*s lvm2 [%s / %s free]", width, pv.Path, nameWidth, pv.Group.Meta.Name, size, volume.LongSize(pv.Free()))
	})
	if n == 0 {
		a.say("No matching physical volumes found")
		return
	}
	a.say("Total: %d [%s] / in use: %d [%s] / in no VG: %d [%s]", n, volume.LongSize(total), count, volume.LongSize(used), n-count, volume.LongSize(total-used))
}
