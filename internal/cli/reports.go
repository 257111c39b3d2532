package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cowl/internal/cli/fields"
	"cowl/internal/cli/report"
	"cowl/internal/errs"
	"cowl/internal/volume"
)

// reportFlags are the options that all reports have.
type reportFlags struct {
	columns      []string
	sort, sel    string
	units        string
	separator    string
	format       option[report.JSON]
	all          bool
	segments     bool
	noHeadings   bool
	noSuffix     bool
	aligned      bool
	unbuffered   bool
	namePrefixes bool
	unquoted     bool
	rows         bool
	binary       bool
	check        bool // of lvs alone
}

// add defines the options on a command. hasAll tells the commands with -a,
// hasSegments those with --segments.
func (o *reportFlags) add(cmd *cobra.Command, hasAll string, hasSegments bool) {
	o.format = option[report.JSON]{kind: "basic|json|json_std", parse: oneOf(map[string]report.JSON{
		"basic": report.NoJSON, "json": report.JSONBasic, "json_std": report.JSONStd,
	})}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVarP(&o.columns, "options", "o", nil, "show these `columns`: a,b instead of, +a beside, -a without the usual ones; #a hides a if it is empty; help lists them")
	f.StringVarP(&o.sort, "sort", "O", "", "sort by these `columns`, -a backwards")
	f.StringVarP(&o.sel, "select", "S", "", "show what this `selection` matches, such as 'lv_size>1g && lv_tags=db'; help explains")
	if hasAll != "" {
		f.BoolVarP(&o.all, "all", "a", false, hasAll)
	}
	if hasSegments {
		f.BoolVar(&o.segments, "segments", false, "show a line for every segment")
	}
	f.StringVar(&o.units, "units", "", "show sizes in these `units`: r (the default), h, b, s, k, m, g, t, p, e; capitals count in thousands")
	f.BoolVar(&o.noSuffix, "nosuffix", false, "show no unit behind sizes")
	f.BoolVar(&o.noHeadings, "noheadings", false, "show no headings")
	f.StringVar(&o.separator, "separator", "", "show this `string` between columns, unaligned")
	f.BoolVar(&o.aligned, "aligned", false, "align columns in spite of --separator")
	f.BoolVar(&o.unbuffered, "unbuffered", false, "do not sort, nor align rows with each other")
	f.BoolVar(&o.rows, "rows", false, "show columns as rows")
	f.BoolVar(&o.binary, "binary", false, "show 0, 1 and -1 (unknown) instead of words")
	f.BoolVar(&o.namePrefixes, "nameprefixes", false, "show LVM2_NAME='value' pairs")
	f.BoolVar(&o.unquoted, "unquoted", false, "show values in such pairs without quotes")
	flagOf(f, &o.format, "reportformat", "", "show a table or JSON")
}

// run prints a report about what the arguments name. It goes on past what
// does not exist and fails in the end.
func (o *reportFlags) run(cmd *cobra.Command, a *app, kind fields.Kind, args []string) error {
	if len(o.columns) > 0 && slices.ContainsFunc(o.columns, asksForHelp) {
		return catalog().WriteHelp(a.Stdout)
	}
	if asksForHelp(o.sel) {
		return catalog().WriteSelectHelp(a.Stdout)
	}
	if err := volume.CheckUnits(o.units); err != nil {
		return usageError(cmd, err)
	}
	r, err := catalog().Parse(kind.Query(report.Query{
		Lists: o.columns, Sort: o.sort, Select: o.sel, Now: a.Now().In(a.Zone),
	}, cmd.Flags().Changed("sort"), a.verbose > 0))
	if err != nil {
		return err
	}
	data, err := a.inventory(cmd.Context())
	if err != nil {
		return err
	}
	missing := a.narrow(data, kind, args)
	env := &fields.Env{Sizes: volume.SizeFormat{Units: o.units, NoSuffix: o.noSuffix}, Zone: a.Zone, All: o.all}
	rows, err := kind.Rows(data, r.Types(), env)
	if err != nil {
		return err
	}
	if err := r.Print(a.Stdout, rows, o.printFormat(cmd, kind)); err != nil {
		return err
	}
	if kind.Name == fields.LVs.Name {
		if low := a.checkSpace(data, o.check); missing == nil {
			return low
		}
	}
	return missing
}

func catalog() *report.Catalog[fields.Row] { return fields.Catalog() }

func asksForHelp(text string) bool { return text == "help" || text == "?" }

func (o *reportFlags) printFormat(cmd *cobra.Command, kind fields.Kind) report.Format {
	f := report.Format{
		Name: kind.Name, JSON: o.format.value, NoHeadings: o.noHeadings, Aligned: o.aligned,
		Unbuffered: o.unbuffered, NamePrefixes: o.namePrefixes, Unquoted: o.unquoted,
		Prefix: "LVM2_", Rows: o.rows, Binary: o.binary,
	}
	if cmd.Flags().Changed("separator") {
		f.Separator = &o.separator
	}
	return f
}

// narrow leaves in data what the arguments name: groups, volumes, PVs and
// @tags. What is not there is complained about; the error ends the command.
func (a *app) narrow(data *fields.Data, kind fields.Kind, args []string) error {
	var failed error
	complain := func(err error) {
		if err != nil {
			a.complain(err)
			failed = coded{errSilent, max(exitCode(failed), exitCode(err))}
		}
	}
	switch kind.Name {
	case fields.PVs.Name, fields.PVSegments.Name:
		if len(args) > 0 {
			complain(narrowPVs(data, args))
		}
	case fields.VGs.Name:
		for _, err := range narrowGroups(data, args) {
			complain(err)
		}
	default:
		for _, err := range narrowLVs(data, args) {
			complain(err)
		}
	}
	return failed
}

// narrowGroups keeps the groups that are named. Without arguments it keeps all.
func narrowGroups(data *fields.Data, args []string) []error {
	if len(args) == 0 {
		return nil
	}
	var failures []error
	keep := map[string]bool{}
	for _, arg := range args {
		if tag, ok := strings.CutPrefix(arg, "@"); ok {
			for _, g := range data.Groups {
				keep[g.Meta.Name] = keep[g.Meta.Name] || slices.Contains(g.Meta.Tags, tag)
			}
			continue
		}
		name, err := groupName(arg)
		if err == nil && findGroup(data, name) == nil {
			err = noGroup(name)
		}
		if err != nil {
			failures = append(failures, err)
			continue
		}
		keep[name] = true
	}
	data.Groups = slices.DeleteFunc(data.Groups, func(g *fields.Group) bool { return !keep[g.Meta.Name] })
	return failures
}

// noGroup is the error for a group that does not exist.
func noGroup(name string) error {
	return errs.E(errs.NotFound, "Volume group %q not found\nCannot process volume group %s", name, name)
}

func findGroup(data *fields.Data, name string) *fields.Group {
	for _, g := range data.Groups {
		if g.Meta.Name == name {
			return g
		}
	}
	return nil
}

// narrowLVs keeps the volumes that are named by group, by name or by a tag of
// their own or of their group. Volumes of exported groups are not shown.
func narrowLVs(data *fields.Data, args []string) []error {
	var failures []error
	whole := map[*fields.Group]bool{}
	for _, arg := range args {
		if tag, ok := strings.CutPrefix(arg, "@"); ok {
			for _, g := range data.Groups {
				whole[g] = whole[g] || slices.Contains(g.Meta.Tags, tag)
				onlyTagged(g, tag)
			}
			continue
		}
		if g, err := nameLV(data, arg); err != nil {
			failures = append(failures, err)
		} else if g != nil {
			whole[g] = true
		}
	}
	data.Groups = slices.DeleteFunc(data.Groups, func(g *fields.Group) bool {
		named := whole[g] || g.Only != nil || len(args) == 0
		if named && g.Exported() {
			failures = append(failures, errs.E(errs.Conflict, "Volume group %s is exported", g.Meta.Name))
		}
		return !named || g.Exported()
	})
	for g := range whole {
		if whole[g] {
			g.Only = nil
		}
	}
	return failures
}

func onlyTagged(g *fields.Group, tag string) {
	for _, lv := range g.Volumes(false) {
		if slices.Contains(lv.Tags, tag) {
			only(g, lv.Name)
		}
	}
}

func only(g *fields.Group, name string) {
	if g.Only == nil {
		g.Only = map[string]bool{}
	}
	g.Only[name] = true
}

// nameLV notes the volume that the argument names in its group, or returns
// the group that it names.
func nameLV(data *fields.Data, arg string) (*fields.Group, error) {
	name, err := splitName(arg)
	if err != nil {
		return nil, err
	}
	g := findGroup(data, name.VG)
	switch {
	case g == nil:
		return nil, noGroup(name.VG)
	case name.LV == "":
		return g, nil
	}
	if _, err := g.Meta.FindLV(name.LV); err != nil {
		return nil, err
	}
	only(g, name.LV)
	return nil, nil
}

// minPVSize is what LVM2 takes for a PV at least, in bytes.
const minPVSize = 2 << 20

// narrowPVs keeps the PVs that are named by path or tag.
func narrowPVs(data *fields.Data, args []string) error {
	found := map[string]bool{}
	named := func(pv *fields.PV) bool {
		for _, arg := range args {
			tag, isTag := strings.CutPrefix(arg, "@")
			if isTag && pv.Meta != nil && slices.Contains(pv.Meta.Tags, tag) || !isTag && samePath(pv.Path, arg) {
				found[arg] = true
				return true
			}
		}
		return false
	}
	drop := func(pv *fields.PV) bool { return !named(pv) }
	for _, g := range data.Groups {
		g.PVs = slices.DeleteFunc(slices.Clone(g.PVs), drop)
	}
	data.Orphans = slices.DeleteFunc(data.Orphans, drop)
	devices := slices.DeleteFunc(slices.Clone(data.Devices), drop)
	var failures []string
	for _, arg := range args {
		at := slices.IndexFunc(devices, func(pv *fields.PV) bool { return samePath(pv.Path, arg) })
		switch {
		case strings.HasPrefix(arg, "@"):
		case at >= 0 && devices[at].DevSize < minPVSize:
			failures = append(failures, "Cannot use "+arg+": device is too small (pv_min_size)")
		case at >= 0:
			failures = append(failures, "Failed to find physical volume \""+arg+"\".")
		case !found[arg]:
			failures = append(failures, "Cannot use "+arg+": device not found")
		}
	}
	data.Devices = nil
	if len(failures) > 0 {
		return errs.E(errs.NotFound, "%s", strings.Join(failures, "\n"))
	}
	return nil
}
