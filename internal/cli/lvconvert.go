package cli

import (
	"github.com/spf13/cobra"

	"cowl/internal/manager"
)

// lvconvert is one run of the verb.
type lvconvert struct {
	merging
	cmd   *cobra.Command
	merge bool
}

func newLVConvert(a *app) *cobra.Command {
	c := &lvconvert{merging: newMerging(a)}
	c.cmd = &cobra.Command{
		Use: "lvconvert --merge [OPTION]... VG/SNAPSHOT|@TAG...", Short: "Merge snapshots into their origins (roll back)", GroupID: groupLVM,
		Long: `Merge snapshots into their origins, which then are what they were when the
snapshots were taken. The snapshots are gone when that is done.

While the origin or the snapshot is open, the merge waits until it is closed.
The origin can be used while the merge runs, and shows the old content at once.
A merge that is interrupted, by a power cut too, goes on when the origin is
activated again.

Without -b the command stays and shows how far the merge is; interrupting the
command does not undo the merge.

--rate leaves the disk to others: no more than so much is copied back in a second
(KiB without a unit, 0 for as fast as it goes). Given again for a snapshot that is
being merged, it changes the rate. The metadata keeps it, as the tag
cowl.merge_rate, so that it holds for a merge that goes on later; under the
kernel's LVM it has no effect. lvs -o merge_rate shows it.`,
		Example: `  cowl lvconvert --merge vg/before
  cowl lvconvert --merge --rate 20M vg/before
  cowl lvconvert --merge -b vg/before ; cowl lvs -o+data_percent vg
  cowl lvconvert --merge -i 1 vg/before`,
		Args: func(cmd *cobra.Command, args []string) error {
			if !c.merge || len(args) == 0 {
				return noSyntax(cmd)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return c.eachTarget(cmd, args, c.mergeAll) },
	}
	f := c.cmd.Flags()
	f.BoolVar(&c.merge, "merge", false, "merge the snapshots")
	f.BoolVar(&c.merge, "mergesnapshot", false, "the same")
	c.addFlags(f)
	return c.cmd
}

func (c *lvconvert) mergeAll(t target, g manager.Group, s *manager.Status) error {
	names, failed := c.volumes(t, s)
	for _, name := range names {
		if t.names == nil && !s.Group.IsCow(s.Group.LV(name)) {
			continue // of a whole group, the snapshots
		}
		if _, err := c.mergeOne(c.cmd.Context(), g, name); err != nil {
			c.complain(err)
			failed = errSilent
		}
	}
	return failed
}
