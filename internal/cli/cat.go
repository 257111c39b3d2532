package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func newCat(a *app) *cobra.Command {
	var access accessFlags
	cmd := &cobra.Command{
		Use: "cat SOURCE:/PATH...", Short: "Print files of a volume or image, without mounting it", GroupID: groupOwn,
		Long: `Write the content of regular files to standard output, one after the other.
Symbolic links are followed, within SOURCE.

` + insideHelp,
		Example: `  cowl cat server1/rootsnapshot:/etc/fstab
  cowl cat /backups/server1-root.20260102T030405Z.raw:/var/lib/dump.sql.gz | gzip -d | psql`,
		Args: atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, arg := range args {
				at := insideArg(arg)
				err := a.withFiles(cmd.Context(), at, access, filesOptions{only: at.path}, func(fl *files) error { return a.cat(cmd.Context(), fl, at) })
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	access.add(cmd.Flags())
	return cmd
}

// cat writes one file.
func (a *app) cat(ctx context.Context, fl *files, at inside) error {
	f, err := fl.open(at)
	if err != nil {
		return err
	}
	defer f.Close()
	if fl.archive != nil && fl.archive.Err() != nil {
		a.warn("%s: %v", printable(at.source), fl.archive.Err())
	}
	for buf := make([]byte, 256<<10); ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := f.Read(buf)
		if _, err := a.Stdout.Write(buf[:n]); err != nil {
			return err
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	}
}
