package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8/cwriter"

	"cowl/internal/archive"
	"cowl/internal/errs"
)

// tarFlags are the options of cowl tar.
type tarFlags struct {
	gzip, goOn bool
	shrink     option[archive.Compression]
	access     accessFlags
}

func newTar(a *app) *cobra.Command {
	o := tarFlags{shrink: option[archive.Compression]{kind: "none|gzip|zstd", parse: oneOf(map[string]archive.Compression{"none": archive.None, "gzip": archive.Gzip, "zstd": archive.Zstd})}}
	cmd := &cobra.Command{
		Use: "tar SOURCE[:/PATH] [OPTION]...", Short: "Archive files of a volume or image, without mounting it", GroupID: groupOwn,
		Long: `Write a tar archive (POSIX pax) of a directory and all below it, or of one file, to
standard output: owners by number, modes, times to the nanosecond, hard links,
symbolic links, devices, extended attributes, ACLs, and holes as holes. Names in
it begin with "./". Sockets are left out, with a note.

What cannot be read ends it with an error, unless --ignore-failed-read is given.

` + insideHelp,
		Example: `  cowl tar server1/rootsnapshot:/home --compress zstd > home.tar.zst
  cowl tar -z /backups/server1-root.20260102T030405Z.raw > root.tar.gz
  cowl tar server1/rootsnapshot:/etc | tar -x --numeric-owner --xattrs --xattrs-include='*' -pC /tmp/etc`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, a, insideArg(args[0])) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	flagOf(f, &o.shrink, "compress", "", "compress the archive, with a checksum of its content (none)")
	f.BoolVarP(&o.gzip, "gzip", "z", false, "the same as --compress gzip")
	f.BoolVar(&o.goOn, "ignore-failed-read", false, "go on past files that cannot be read; the exit code tells of them")
	o.access.add(f)
	return cmd
}

func (o *tarFlags) run(cmd *cobra.Command, a *app, at inside) error {
	if a.toTerminal() {
		return usage(cmd, "An archive is not for a terminal: redirect it to a file or a pipe.")
	}
	if o.gzip {
		if o.shrink.given && o.shrink.value != archive.Gzip {
			return usage(cmd, "--gzip and --compress do not go together.")
		}
		o.shrink.value = archive.Gzip
	}
	ctx := cmd.Context()
	return a.withFiles(ctx, at, o.access, filesOptions{}, func(fl *files) error {
		return fl.withTree(at, func(tree archive.Tree) error { return o.write(ctx, a, tree, at) })
	})
}

// toTerminal tells whether a person sees what is printed as it is.
func (a *app) toTerminal() bool {
	f, ok := a.Stdout.(*os.File)
	return ok && cwriter.IsTerminal(int(f.Fd()))
}

// write writes the archive of a tree to standard output.
func (o *tarFlags) write(ctx context.Context, a *app, tree archive.Tree, at inside) error {
	// The archive's pieces are small, and each write is a system call.
	buffered := bufio.NewWriterSize(a.Stdout, 1<<20)
	to, err := o.shrink.value.Pack(buffered)
	if err != nil {
		return err
	}
	finish := func() error { return errors.Join(to.Close(), buffered.Flush()) }
	opts := archive.Options{Note: func(text string) { a.warn("%s", text) }}
	var failed error
	if o.goOn {
		opts.Unreadable = func(name string, err error) error {
			a.complain(fmt.Errorf("%s: %w", name, err))
			failed = errSilent
			return nil
		}
	}
	if _, err := archive.Write(ctx, to, tree, opts); err != nil {
		if !o.goOn && (errs.Is(err, errs.Corrupt) || errs.Is(err, errs.Unsupported)) {
			err = errs.WithHint(err, "The archive is cut off. --ignore-failed-read goes on without what cannot be read.")
		}
		return fmt.Errorf("%s: %w", at, err)
	}
	return errors.Join(failed, finish())
}
