package cli

import (
	"github.com/spf13/cobra"

	"cowl/internal/cli/display"
	"cowl/internal/cli/fields"
)

func newVGDisplay(a *app) *cobra.Command {
	var o displayFlags
	cmd := &cobra.Command{
		Use: "vgdisplay [OPTION]... [VG|@TAG]...", Short: "Show volume groups in detail", GroupID: groupLVM,
		Long: "Show volume groups, a block of lines each; with -v their volumes and PVs, too.",
		Example: `  cowl vgdisplay
  cowl vgdisplay | grep Free
  cowl vgdisplay -v vg
  cowl vgdisplay -s`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd, a, fields.VGs, args, func(p *display.Printer, data *fields.Data) error {
				return showGroups(p, data, &o, a.verbose > 0)
			})
		},
	}
	o.add(cmd, "", false, true)
	return cmd
}

func showGroups(p *display.Printer, data *fields.Data, o *displayFlags, verbose bool) error {
	one := p.VG
	switch {
	case o.short:
		one = p.VGShort
	case o.colon:
		one = p.VGColon
	case verbose:
		one = p.VGWithParts
	}
	for _, g := range data.Groups {
		if err := one(g); err != nil {
			return err
		}
	}
	return nil
}
