package cli

import (
	"github.com/spf13/cobra"

	"cowl/internal/cli/fields"
)

func newPVs(a *app) *cobra.Command {
	var o reportFlags
	cmd := &cobra.Command{
		Use: "pvs [OPTION]... [PV|@TAG]...", Short: "List physical volumes", GroupID: groupLVM,
		Long: `List physical volumes, one a line.

The characters of Attr are: a if extents may be taken from the PV, u if not;
x if its group is exported; m if its device is missing.`,
		Example: `  cowl pvs
  cowl pvs --segments -o+lv_name          # which volume has which extents
  cowl pvs -o pv_name,pv_free --units g --noheadings
  cowl pvs -S 'pv_free>1g'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.segments {
				return o.run(cmd, a, fields.PVSegments, args)
			}
			return o.run(cmd, a, fields.PVs, args)
		},
	}
	o.add(cmd, "show devices that are no PVs, too", true)
	return cmd
}
