package cli

import (
	"errors"
	"slices"

	"github.com/spf13/cobra"

	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

func newVGRemove(a *app) *cobra.Command {
	var force int
	cmd := &cobra.Command{
		Use: "vgremove [OPTION]... VG|@TAG...", Short: "Remove volume groups", GroupID: groupLVM,
		Long: `Remove volume groups with all of their volumes; the physical volumes stay. A
group that has volumes is removed after a question, or with -y or -f; one with a
volume that is open is not removed.`,
		Example: `  cowl vgremove vg
  cowl vgremove -t vg              # what would be removed?`,
		Args: atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a.yes = a.yes || force > 0
			targets, err := a.groupTargets(cmd, args)
			if err != nil {
				return err
			}
			a.testMode()
			return a.each(targets, func(t target) error {
				return a.withGroup(cmd.Context(), t.group, func(g manager.Group, s *manager.Status) error {
					return a.removeGroup(cmd, g, s)
				})
			})
		},
	}
	cmd.Flags().CountVarP(&force, "force", "f", "do not ask")
	return cmd
}

func (a *app) removeGroup(cmd *cobra.Command, g manager.Group, s *manager.Status) error {
	name := s.Group.Name
	visible := s.Group.Visible()
	if n := len(visible); n > 0 {
		ok, err := a.confirm("Do you really want to remove volume group %q containing %d logical volumes?", name, n)
		if err != nil || !ok {
			return errors.Join(err, notRemoved(name))
		}
	}
	// In one step: with its last volume a group's daemon would end.
	r, err := g.RemoveGroup(cmd.Context())
	if err != nil {
		if errs.Is(err, errs.Busy) {
			return errs.E(errs.Busy, "%w\n%w", err, notRemoved(name))
		}
		return err
	}
	a.tell(r.Notes)
	for _, gone := range removalOrder(s.Group) {
		a.say("Logical volume %q successfully removed.", gone)
	}
	a.say("Volume group %q successfully removed", name)
	return nil
}

// removalOrder lists the volumes of a group as LVM removes them: an origin's
// snapshots before the origin.
func removalOrder(g *volume.Group) []string {
	var names []string
	add := func(lv *volume.LV) {
		if !slices.Contains(names, lv.Name) {
			names = append(names, lv.Name)
		}
	}
	for _, lv := range g.Visible() {
		for _, s := range g.SnapshotsOf(lv) {
			add(s.Cow)
		}
		add(lv)
	}
	return names
}
