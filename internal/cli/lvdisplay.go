package cli

import (
	"github.com/spf13/cobra"

	"cowl/internal/cli/display"
	"cowl/internal/cli/fields"
)

func newLVDisplay(a *app) *cobra.Command {
	var o displayFlags
	cmd := &cobra.Command{
		Use: "lvdisplay [OPTION]... [VG|VG/LV|@TAG]...", Short: "Show logical volumes in detail", GroupID: groupLVM,
		Long: `Show logical volumes, a block of lines each. Of an active volume it says where
its content is: the NBD export, and the file where FUSE works.`,
		Example: `  cowl lvdisplay vg/data
  cowl lvdisplay -m vg             # with the extents
  cowl lvdisplay -C vg             # as lvs`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd, a, fields.LVs, args, func(p *display.Printer, data *fields.Data) error {
				return showVolumes(p, data, &o)
			})
		},
	}
	o.add(cmd, "show internal volumes, too", true, false)
	return cmd
}

func showVolumes(p *display.Printer, data *fields.Data, o *displayFlags) error {
	one := p.LV
	if o.colon {
		one = p.LVColon
	}
	for _, g := range data.Groups {
		for _, lv := range g.Volumes(o.all) {
			if !o.all && !g.Visible(lv) {
				continue // not even when it is named
			}
			if err := one(g, lv); err != nil {
				return err
			}
		}
	}
	return nil
}
