package cli

import (
	"github.com/spf13/cobra"

	"cowl/internal/cli/display"
	"cowl/internal/cli/fields"
	"cowl/internal/volume"
)

// displayFlags are the options of pvdisplay, vgdisplay and lvdisplay: theirs,
// and with -C those of the reports.
type displayFlags struct {
	reportFlags
	colon, columnar, maps, short bool
}

func (o *displayFlags) add(cmd *cobra.Command, hasAll string, hasMaps, hasShort bool) {
	f := cmd.Flags()
	f.BoolVarP(&o.colon, "colon", "c", false, "show one line with colons, for scripts")
	f.BoolVarP(&o.columnar, "columns", "C", false, "show a table, as pvs, vgs and lvs do, with their options")
	if hasMaps {
		f.BoolVarP(&o.maps, "maps", "m", false, "show where the extents are")
	}
	if hasShort {
		f.BoolVarP(&o.short, "short", "s", false, "show one short line")
	}
	o.reportFlags.add(cmd, hasAll, false)
}

// check refuses options that do not go together.
func (o *displayFlags) check(cmd *cobra.Command) error {
	switch {
	case o.colon && o.maps:
		return usage(cmd, "Options -c and -m are incompatible.")
	case o.colon && o.short:
		return usage(cmd, "Options -c and -s are incompatible.")
	case o.columnar && (o.colon || o.maps || o.short):
		return usage(cmd, "Option -C is incompatible with -c, -m and -s.")
	case !o.columnar && (cmd.Flags().Changed("sort") || len(o.columns) > 0 || o.sel != ""):
		return usage(cmd, "Options -o, -O and -S need -C.")
	}
	return usageError(cmd, volume.CheckUnits(o.units))
}

// run shows what the arguments name, each object by show; with -C it is the
// report of the kind.
func (o *displayFlags) run(cmd *cobra.Command, a *app, kind fields.Kind, args []string, show func(*display.Printer, *fields.Data) error) error {
	if err := o.check(cmd); err != nil {
		return err
	}
	if o.columnar {
		return o.reportFlags.run(cmd, a, kind, args)
	}
	data, err := a.inventory(cmd.Context())
	if err != nil {
		return err
	}
	missing := a.narrow(data, kind, args)
	p := &display.Printer{
		Out: a.Stdout, Zone: a.Zone, Maps: o.maps,
		Sizes: volume.SizeFormat{Units: o.units, NoSuffix: o.noSuffix, Long: true},
	}
	if o.units == "" {
		p.Sizes.Units = "r"
	}
	if err := show(p, data); err != nil {
		return err
	}
	if kind.Name == fields.LVs.Name {
		a.checkSpace(data, false)
	}
	return missing
}
