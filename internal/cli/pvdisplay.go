package cli

import (
	"github.com/spf13/cobra"

	"cowl/internal/cli/display"
	"cowl/internal/cli/fields"
)

func newPVDisplay(a *app) *cobra.Command {
	var o displayFlags
	cmd := &cobra.Command{
		Use: "pvdisplay [OPTION]... [PV|@TAG]...", Short: "Show physical volumes in detail", GroupID: groupLVM,
		Long: "Show physical volumes, a block of lines each.",
		Example: `  cowl pvdisplay
  cowl pvdisplay -m disk.img       # with the extents and what is on them
  cowl pvdisplay -C                # as pvs`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd, a, fields.PVs, args, o.show)
		},
	}
	o.add(cmd, "show devices that are no PVs, too (with -C)", true, true)
	return cmd
}

func (o *displayFlags) show(p *display.Printer, data *fields.Data) error {
	one := p.PV
	switch {
	case o.short:
		one = p.PVShort
	case o.colon:
		one = p.PVColon
	}
	for _, g := range data.Groups {
		for _, pv := range g.PVs {
			if err := one(pv); err != nil {
				return err
			}
		}
	}
	for _, pv := range data.Orphans {
		if err := one(pv); err != nil {
			return err
		}
	}
	return nil
}
