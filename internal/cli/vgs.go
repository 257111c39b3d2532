package cli

import (
	"github.com/spf13/cobra"

	"cowl/internal/cli/fields"
)

func newVGs(a *app) *cobra.Command {
	var o reportFlags
	cmd := &cobra.Command{
		Use: "vgs [OPTION]... [VG|@TAG]...", Short: "List volume groups", GroupID: groupLVM,
		Long: `List volume groups, one a line.

The characters of Attr are: w writeable or r read-only; z if PVs may be added;
x exported; p partial, a PV is missing; the allocation policy (normal,
contiguous, cling, anywhere); s shared.`,
		Example: `  cowl vgs
  cowl vgs -o +vg_free_count,vg_extent_count
  cowl vgs --reportformat json`,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, a, fields.VGs, args) },
	}
	o.add(cmd, "show all (accepted for LVM's sake: nothing is hidden)", false)
	return cmd
}
