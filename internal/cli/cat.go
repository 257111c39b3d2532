package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"cowl/internal/errs"
	"cowl/internal/format/ext4"
	"cowl/internal/fsread"
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
				err := a.withFS(cmd.Context(), at, access, func(fs *fsread.FS) error { return a.cat(cmd.Context(), fs, at) })
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
func (a *app) cat(ctx context.Context, fs *fsread.FS, at inside) error {
	n, err := fs.Lookup(at.path, true)
	if err != nil {
		return fmt.Errorf("%s:%w", at.source, err)
	}
	if n.Mode.Type() != ext4.TypeFile {
		what := typeNames[n.Mode.Type()]
		err := errs.E(errs.Usage, "%s is a %s", at, what)
		if n.Mode.Type() == ext4.TypeDir {
			err = errs.WithHint(err, "cowl ls lists it, cowl cp brings it back.")
		}
		return coded{err, exitFailed}
	}
	f, err := fs.OpenFile(n)
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	buf := make([]byte, 256<<10)
	for off := int64(0); off < f.Size(); {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b := buf[:min(int64(len(buf)), f.Size()-off)]
		if _, err := f.ReadAt(b, off); err != nil && err != io.EOF {
			return fmt.Errorf("%s: %w", at, err)
		}
		if _, err := a.Stdout.Write(b); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return nil
}
