package cli

import (
	"bufio"
	"context"
	"errors"
	"math"

	"github.com/spf13/cobra"

	"cowl/internal/archive"
	"cowl/internal/backup/repo"
	"cowl/internal/errs"
	"cowl/internal/fsdiff"
	"cowl/internal/fsread"
)

// diffFlags are the options of cowl diff.
type diffFlags struct {
	blocks, json, stat, unified, tree, quick, noTimes bool
	access                                            accessFlags
}

func newDiff(a *app) *cobra.Command {
	var o diffFlags
	cmd := &cobra.Command{
		Use: "diff A[:/PATH] B[:/PATH] [OPTION]...", Short: "Compare volumes, snapshots and backups, by files or blocks", GroupID: groupOwn,
		Long: `Show what has changed from A to B, a line for each file:

  + added    - removed    M content changed    m only metadata changed
  R renamed  T replaced by a file of another type

What differs beside the content is in parentheses; --ignore-times leaves out files whose
times of modification are all that does, as an upgrade leaves many. Of two states of one file system
(snapshots and backups of one volume) files are known by their inodes, so that
what was moved is shown as renamed. Of an archive, or a file system that the kernel
reads, they are known by their paths, and flags and project numbers do not count.

Between a volume and its snapshot, two snapshots of one volume, and two backups
in one repository it is known which blocks can differ, and only files that have
some of those are compared. Otherwise the files are read; --quick takes those
for the same whose inodes say so (size, times, place).

-u shows how text files differ (UTF-8 without NUL, up to 4 MiB; on a terminal, what
that would obey is shown as \x1b), --tree puts the names below their
directories, --stat prints only how many files there are of each kind. --blocks compares
blocks of 4 KiB, whatever is in them, and prints the start and length of what
differs, in bytes.

The exit code is diff's: 0 if there is no difference, 1 if there is one, anything else
if A and B could not be compared, or not all of them: what could not be read is named.

` + insideHelp + `

` + passwordHelp,
		Example: `  cowl diff server1/monday server1/root
  cowl diff server1/monday:/etc server1/root:/etc -u
  cowl diff repo:/backups/cowl::3f2a91c0 repo:/backups/cowl::latest --stat
  cowl diff --blocks server1/monday server1/tuesday --json`,
		Args: exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, a, args) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVarP(&o.unified, "unified", "u", false, "show how text files differ")
	f.BoolVar(&o.tree, "tree", false, "show the names as a tree")
	f.BoolVar(&o.stat, "stat", false, "print totals only")
	f.BoolVar(&o.blocks, "blocks", false, "compare blocks instead of files")
	f.BoolVar(&o.noTimes, "ignore-times", false, "leave out files of which only the time differs")
	f.BoolVar(&o.quick, "quick", false, "trust inodes that say that a file was not changed")
	o.access.add(f)
	f.BoolVar(&o.json, "json", false, "print one JSON object instead of lines")
	return cmd
}

func (o *diffFlags) run(cmd *cobra.Command, a *app, args []string) error {
	switch {
	case o.blocks && (o.unified || o.quick || o.tree || o.noTimes):
		return usage(cmd, "--unified, --tree, --ignore-times and --quick are about files, --blocks is not.")
	case o.unified && (o.stat || o.json || o.tree), o.tree && (o.stat || o.json):
		return usage(cmd, "Of --unified, --tree, --stat and --json there can be one, or --stat with --json.")
	case o.blocks && (hasPath(args[0]) || hasPath(args[1])):
		return usage(cmd, "--blocks compares all of a volume: leave out the path.")
	}
	ctx := cmd.Context()
	open := a.opener(o.access)
	d := &comparing{diffFlags: o, a: a, at: [2]inside{insideArg(args[0]), insideArg(args[1])}, out: bufio.NewWriterSize(a.Stdout, 64<<10), lines: math.MaxInt64}
	err := open.with(ctx, d.at[0].source, func(x *source) error {
		return open.with(ctx, d.at[1].source, func(y *source) error {
			if o.blocks {
				return d.blocksOf(ctx, x, y)
			}
			return d.files(ctx, x, y)
		})
	})
	if err = errors.Join(err, d.out.Flush()); err == nil && d.total.found() > 0 {
		return coded{errSilent, exitDifferent}
	}
	return err
}

// comparing is one run of the verb.
type comparing struct {
	*diffFlags
	a          *app
	at         [2]inside
	out        *bufio.Writer
	fs         [2]*fsread.FS
	total      diffTotal
	shown      []string // of a tree, the names on the way to the last line
	incomplete bool
	lines      int64 // how many are printed at most; the total counts all
	times      int64 // files of which only the time differs and that were left out
}

// mayDiffer returns where two sources can differ, nil if that is not known.
func (d *comparing) mayDiffer(ctx context.Context, x, y *source) (fsread.Ranges, error) {
	imageX, okX := x.dev.(*repo.Image)
	imageY, okY := y.dev.(*repo.Image)
	switch {
	case okX && okY:
		return imagesDiffer(ctx, imageX, imageY)
	case x.group == nil || x.group != y.group:
		return nil, nil
	case x.lv == y.lv:
		return fsread.Ranges{}, nil
	}
	lv, since := y.lv, x.lv
	if _, ok := x.vg.SnapshotOf(x.vg.LV(x.lv)); !ok {
		lv, since = since, lv
	}
	lists, err := changesBetween(ctx, x.group, x.vg, lv, since)
	switch {
	case errs.Is(err, errs.Usage), errs.Is(err, errs.Unsupported):
		return nil, nil // they are no family
	case errs.Is(err, errs.Conflict):
		d.a.warn("which blocks differ is not known, all is read: %v", err)
		return nil, nil
	case err != nil:
		return nil, err
	}
	out := fsread.Ranges{}
	for r := range changedRanges(max(x.dev.Size(), y.dev.Size()), lists) {
		out = append(out, fsread.Range(r))
	}
	return out, nil
}

// imagesDiffer returns where two images in repositories can differ, nil if that is
// not known.
func imagesDiffer(ctx context.Context, x, y *repo.Image) (fsread.Ranges, error) {
	extents, err := x.Differing(ctx, y)
	if errs.Is(err, errs.Unsupported) {
		return nil, nil
	}
	out := fsread.Ranges{}
	for _, e := range extents {
		out = append(out, fsread.Range{Off: e.Off, Len: e.Len})
	}
	return out, err
}

// files compares file systems.
func (d *comparing) files(ctx context.Context, x, y *source) error {
	// Before anything is read: what changes from now on is not what was asked for.
	ranges, err := d.mayDiffer(ctx, x, y)
	if err != nil {
		return err
	}
	return d.a.withFilesOf(ctx, x, filesOptions{compare: true}, func(x *files) error {
		return d.a.withFilesOf(ctx, y, filesOptions{compare: true}, func(y *files) error { return d.compare(ctx, x, y, ranges) })
	})
}

// compare compares what is open, of which only ranges can differ unless that is nil.
func (d *comparing) compare(ctx context.Context, x, y *files, ranges fsread.Ranges) error {
	d.fs = [2]*fsread.FS{x.fs, y.fs}
	o := fsdiff.Options{Changed: ranges, Quick: d.quick, Names: [2]string{d.at[0].String(), d.at[1].String()}, Unreadable: d.unreadable}
	show := func(c *fsdiff.Change) error { return d.show(ctx, c) }
	var err error
	if x.fs != nil && y.fs != nil {
		d.beginFiles(ranges != nil)
		err = fsdiff.Diff(ctx, x.fs, y.fs, d.at[0].path, d.at[1].path, o, show)
	} else {
		d.beginFiles(false)
		byName := treeOptions{byName: true, follow: true}
		err = x.tree(d.at[0], byName, func(a archive.Tree) error {
			return y.tree(d.at[1], byName, func(b archive.Tree) error { return fsdiff.Trees(ctx, a, b, o, show) })
		})
	}
	if err != nil {
		return err
	}
	if err := d.endFiles(); err != nil || !d.incomplete {
		return err
	}
	return coded{errSilent, exitFailed}
}

// unreadable names what cannot be read. The rest is compared.
func (d *comparing) unreadable(err error) error {
	d.out.Flush()
	d.a.complain(err)
	d.incomplete = true
	return nil
}
