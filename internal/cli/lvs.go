package cli

import (
	"github.com/spf13/cobra"

	"cowl/internal/cli/fields"
)

func newLVs(a *app) *cobra.Command {
	var o reportFlags
	cmd := &cobra.Command{
		Use: "lvs [OPTION]... [VG|VG/LV|@TAG]...", Short: "List logical volumes", GroupID: groupLVM,
		Long: `List logical volumes, one a line.

Data% of a snapshot says how full its COW store is: at 100 the snapshot is
lost. While it is merged, Data% says how much is left to do.

A snapshot that should be extended and cannot be is warned about, and so are
writes that wait for that. With --check the command then ends with exit code 6,
also if a snapshot is lost: for those who watch over a machine.

The characters of Attr are:
  1  o origin, O origin with a merging snapshot, s snapshot, S merging snapshot
  2  w writeable, r read-only, R read-only although its metadata says otherwise
  3  allocation policy: i inherited, c contiguous, l cling, n normal, a anywhere
  4  m fixed minor number
  5  a active, s suspended, I invalid (overflowed) snapshot, m merge failed
  6  o open
  7  s part of a snapshot family
  9  p partial: a PV is missing
  10 k left out when its group is activated`,
		Example: `  cowl lvs
  cowl lvs -a -o+devices vg
  cowl lvs -o lv_name,data_percent -S 'data_percent>80'
  cowl lvs --segments -v vg/data
  cowl lvs --check -o lv_name,on_full,time_to_full
  cowl lvs -o all --reportformat json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.segments {
				return o.run(cmd, a, fields.Segments, args)
			}
			return o.run(cmd, a, fields.LVs, args)
		},
	}
	o.add(cmd, "show internal volumes, too", true)
	cmd.Flags().BoolVar(&o.check, "check", false, "end with 6 if a snapshot lacks space or is lost")
	return cmd
}
