package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"cowl/internal/cli/fields"
)

// complete gives a verb's arguments shell completion: names of volumes,
// groups or PVs, as LVM's verbs are named after what they take.
func (a *app) complete(cmd *cobra.Command) {
	if cmd.ValidArgsFunction != nil || len(cmd.Name()) < 2 {
		return
	}
	names := map[string]func(*fields.Data) []string{"lv": volumeNames, "vg": groupNames, "pv": pvNames}[cmd.Name()[:2]]
	if names == nil || cmd.GroupID != groupLVM {
		return
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		directive := cobra.ShellCompDirectiveNoFileComp
		if strings.HasPrefix(cmd.Name(), "pv") || len(args) > 0 { // groups come first, then PVs
			directive = cobra.ShellCompDirectiveDefault
		}
		data, err := a.inventory(cmd.Context())
		if err != nil {
			return nil, directive
		}
		return names(data), directive
	}
	if cmd.Flags().Lookup("options") != nil {
		for _, flag := range []string{"options", "sort"} {
			cmd.RegisterFlagCompletionFunc(flag, completeFields)
		}
	}
}

func volumeNames(data *fields.Data) []string {
	names := groupNames(data)
	for _, g := range data.Groups {
		for _, lv := range g.Volumes(false) {
			names = append(names, g.Meta.Name+"/"+lv.Name)
		}
	}
	return names
}

func groupNames(data *fields.Data) []string {
	var names []string
	for _, g := range data.Groups {
		names = append(names, g.Meta.Name)
	}
	return names
}

func pvNames(data *fields.Data) []string {
	var names []string
	for _, g := range data.Groups {
		for _, pv := range g.PVs {
			if !pv.Missing {
				names = append(names, pv.Path)
			}
		}
	}
	for _, pv := range data.Orphans {
		names = append(names, pv.Path)
	}
	return names
}

// completeFields completes the last name of a list of fields.
func completeFields(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	done := typed[:strings.LastIndexAny(typed, "+-#,")+1]
	var out []string
	for _, name := range catalog().Names() {
		out = append(out, done+name)
	}
	return out, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
}
