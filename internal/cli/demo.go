package cli

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8/cwriter"

	"cowl/internal/cli/demo"
	"cowl/internal/errs"
)

func newDemo(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "demo [DIR]", Short: "See the whole story on real data", GroupID: groupOwn,
		Long: `Tell the whole story in a directory of its own: a group in two files, an ext4,
a program that writes to it all the time, a snapshot, a backup, an accident, a
restore, a rollback. Each command is shown and run; each claim is checked, and
the exit code is not 0 if one does not hold.

It needs no root and touches nothing outside the directory, which stays to look
around in. e2fsprogs make and check the file system; without them a known
pattern takes its place.`,
		Example: `  cowl demo
  cowl demo /tmp/story`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := demo.Options{Out: a.Stdout, Executable: a.Executable, Environ: os.Environ()}
			if f, ok := a.Stdout.(*os.File); ok {
				o.Color = cwriter.IsTerminal(int(f.Fd())) && a.Getenv("NO_COLOR") == ""
			}
			if len(args) > 0 {
				o.Dir = args[0]
			}
			err := demo.Run(cmd.Context(), o)
			if errs.Is(err, errs.Exists) || err == nil {
				return err
			}
			return errSilent // the demo has shown it
		},
	}
}
