package cli

import (
	"os"
	"slices"

	"github.com/spf13/cobra"

	"cowl/internal/errs"
	"cowl/internal/manager"
)

func newVGReduce(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "vgreduce [OPTION]... VG PV...", Short: "Remove physical volumes from a group", GroupID: groupLVM,
		Long: `Remove physical volumes of which nothing is allocated from a volume group, also
while it is active. They stay physical volumes; one must remain.`,
		Example: `  cowl vgreduce vg disk2.img
  cowl vgreduce -a vg              # all that are empty`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || len(args) == 1 && !all {
				return noSyntax(cmd)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := groupName(args[0])
			if err != nil {
				return usageError(cmd, err)
			}
			a.testMode()
			return a.withGroup(cmd.Context(), name, func(g manager.Group, s *manager.Status) error {
				return a.reduceGroup(cmd, g, s, args[1:], all)
			})
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "remove all that are empty, but one")
	return cmd
}

func (a *app) reduceGroup(cmd *cobra.Command, g manager.Group, s *manager.Status, pvs []string, all bool) error {
	if all {
		pvs = emptyPVs(s)
	}
	var failed error
	for _, path := range pvs {
		r, err := g.RemovePVs(cmd.Context(), []string{path})
		if _, gone := os.Stat(path); errs.Is(err, errs.NotFound) && gone != nil {
			err = errs.E(errs.NotFound, "Cannot use %s: device not found", path)
		}
		if err != nil {
			a.complain(err)
			failed = errSilent
			continue
		}
		a.sayResult(r)
		a.say("Removed %q from volume group %q", path, s.Group.Name)
	}
	return failed
}

// emptyPVs returns the PVs of which nothing is allocated, all but the first if
// that is every one.
func emptyPVs(s *manager.Status) []string {
	var out []string
	for i, pv := range s.Group.PVs {
		if s.Group.PVUsed(pv) == 0 && !s.PVs[i].Missing {
			out = append(out, s.PVs[i].Path)
		}
	}
	if len(out) == len(s.PVs) {
		out = slices.Delete(out, 0, min(1, len(out)))
	}
	return out
}

// notRemoved is what LVM says when a group stays.
func notRemoved(name string) error { return errs.E(errs.Other, "Volume group %q not removed", name) }
