package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"cowl/internal/manager"
)

func newLVRemove(a *app) *cobra.Command {
	var force int
	cmd := &cobra.Command{
		Use: "lvremove [OPTION]... VG|VG/LV|@TAG...", Short: "Remove logical volumes", GroupID: groupLVM,
		Long: `Remove logical volumes and give their extents back. The snapshots of an origin
go with it. Of a group, all volumes are removed.

An active volume is removed after a question, or with -y or -f; one that is
open is not removed. The metadata as it was before is kept in the archive.`,
		Example: `  cowl lvremove vg/before
  cowl lvremove -y /dev/vg/data    # and its snapshots
  cowl lvremove -t vg              # what would be removed?`,
		Args: atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a.yes = a.yes || force > 0
			return a.eachTarget(cmd, args, func(t target, g manager.Group, s *manager.Status) error {
				return a.removeLVs(cmd, t, g, s)
			})
		},
	}
	cmd.Flags().CountVarP(&force, "force", "f", "do not ask")
	return cmd
}

// removeLVs removes one volume after the other. What goes with an earlier one
// is not looked for again.
func (a *app) removeLVs(cmd *cobra.Command, t target, g manager.Group, s *manager.Status) error {
	names, failed := a.volumes(t, s)
	gone := map[string]bool{}
	for _, name := range names {
		if gone[name] {
			continue
		}
		r, err := a.removeLV(cmd, name, g, s)
		if err != nil {
			a.complain(err)
			failed = errSilent
			continue
		}
		a.tell(r.Notes)
		for _, n := range r.Names {
			gone[n] = true
			a.say("Logical volume %q successfully removed.", n)
		}
	}
	return failed
}

func (a *app) removeLV(cmd *cobra.Command, name string, g manager.Group, s *manager.Status) (*manager.Result, error) {
	full := fullName(s.Group.Name, name)
	if _, active := s.LVs[name]; active {
		question := "Do you really want to remove active logical volume %s?"
		args := []any{full}
		if n := len(s.Group.SnapshotsOf(s.Group.LV(name))); n > 0 {
			question, args = "Do you really want to remove active origin logical volume %s with %d snapshots(s)?", append(args, n)
		}
		if ok, err := a.confirm(question, args...); err != nil || !ok {
			return nil, errors.Join(err, errors.New("Logical volume "+full+" not removed."))
		}
	}
	return g.RemoveLVs(cmd.Context(), []string{name})
}
