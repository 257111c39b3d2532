package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cowl/internal/cli/fields"
	"cowl/internal/daemon"
	"cowl/internal/errs"
	"cowl/internal/export/nbd"
	"cowl/internal/manager"
	"cowl/internal/overlay"
	"cowl/internal/volume"
)

// newOverlay is a verb of verbs: copy-on-write files have a life of their own,
// which no verb of LVM's fits.
func newOverlay(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "overlay COMMAND", Short: "Copy-on-write files over untouched disks and images", GroupID: groupOwn,
		Long: `Lay a file over a disk or an image, the base. What is written goes to the file,
and the base stays as it is. Several overlays can share a base at the same time,
and one can be merged into it later.

The file is a snapshot store of the kernel's: dmsetup's snapshot target takes
it, with the same base.`,
		Example: `  cowl overlay create base.img vm1.cow
  cowl overlay create base.img vm2.cow       # on the same base
  cowl overlay serve vm1.cow                 # NBD, and a file where FUSE works
  cowl overlay list
  cowl overlay merge vm1.cow                 # base.img becomes what vm1 shows
  cowl overlay discard vm2.cow`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return noCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	for _, child := range []func(*app) *cobra.Command{
		newOverlayCreate, newOverlayList, newOverlayUsage, newOverlayServe, newOverlayMerge, newOverlayRebase, newOverlayDiscard,
	} {
		c := child(a)
		c.DisableFlagsInUseLine = true
		cmd.AddCommand(c)
	}
	return cmd
}

func newOverlayCreate(a *app) *cobra.Command {
	var o overlay.CreateOptions
	chunk := option[volume.Sectors]{kind: "Size[k|UNIT]", parse: volume.ParseChunkSize}
	size := sizeOption('m')
	cmd := &cobra.Command{
		Use: "create [OPTION]... BASE FILE", Short: "Lay a new file over a base",
		Long: `Make an overlay over a raw image, a qcow2 image or a block device.

The file is sparse: it takes the space of what is written to the overlay, in
whole chunks, and can grow until all of the base is replaced. From now on the
base must not be changed, which is found out when the overlay is opened.

A base's format is found out now and never again. Say it where a raw image
comes from somebody who may have made it look like qcow2.`,
		Example: `  cowl overlay create base.img vm1.cow
  cowl overlay create --format raw /dev/sdb1 try.cow
  cowl overlay create -c 64k debian-12.qcow2 vm2.cow`,
		Args: exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Chunk, o.Size, o.Now = chunk.value.Bytes(), size.value, a.Now()
			if err := notZero(size.given, size.value == 0, "size"); err != nil {
				return usageError(cmd, err)
			}
			return usageError(cmd, a.createOverlay(args[0], args[1], o))
		},
	}
	f := cmd.Flags()
	flagOf(f, &chunk, "chunksize", "c", "copy in chunks of this size: 4k (the default) to 512k")
	flagOf(f, &size, "size", "L", "limit what the overlay can hold (default: all of the base)")
	f.StringVar(&o.Format, "format", "", "the base's `format`: raw or qcow2")
	f.BoolVar(&o.BackingAnywhere, "backing-anywhere", false, "follow a qcow2 base's backing files out of its directory")
	return cmd
}

func (a *app) createOverlay(base, path string, o overlay.CreateOptions) error {
	o.Test = a.test
	i, err := overlay.Create(path, base, o)
	if err != nil {
		return err
	}
	verb := "created"
	if a.test {
		verb = "would be created"
	}
	a.say("Overlay %q %s on %s (%s, %s).", path, verb, base, i.Format, sizeText(i.Size))
	return nil
}

func newOverlayList(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list [OPTION]... [DIRECTORY|FILE]...", Short: "Show overlays",
		Long: `Show the overlays in directories (the current one if none is named), not in those
below, and files that are named.

Disk is what an overlay takes on the disk. Data% is how much of its store is in
use, the 100 being a base of which every chunk is replaced. State is ok, in use,
merging (a merge was interrupted), base changed, base missing, base unusable, or
invalid. Of overlays in use, the numbers are those of their last flush.`,
		Example: `  cowl overlay list
  cowl overlay list --json /var/lib/overlays`,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{"."}
			}
			list, failed := a.findOverlays(args)
			if asJSON {
				return errors.Join(a.sayJSON(overlayReport(list)), failed)
			}
			a.printOverlays(list)
			return failed
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object instead of a table")
	return cmd
}

// findOverlays looks at what the arguments name, and complains of what is not
// there.
func (a *app) findOverlays(args []string) (list []*overlay.Info, failed error) {
	for _, arg := range args {
		found, err := overlaysAt(arg)
		if err != nil {
			a.complain(err)
			failed = errSilent
		}
		list = append(list, found...)
	}
	return list, failed
}

func overlaysAt(path string) ([]*overlay.Info, error) {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return overlay.List(path)
	}
	i, err := overlay.Inspect(path)
	if err != nil {
		return nil, err
	}
	return []*overlay.Info{i}, nil
}

func (a *app) printOverlays(list []*overlay.Info) {
	if len(list) == 0 {
		return
	}
	rows := [][]string{{"Overlay", "Base", "Size", "Disk", "Data%", "Chunk", "State"}}
	for _, i := range list {
		rows = append(rows, []string{
			i.Path, i.Base, volume.FormatSize(i.Size, ""), volume.FormatSize(max(i.Disk, 0), ""), overlayPercent(i),
			volume.FormatSize(i.Chunk, ""), string(i.State),
		})
	}
	a.table(rows, 2, 5)
}

// table prints rows as LVM does, the columns from first to last aligned right.
func (a *app) table(rows [][]string, first, last int) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for c, cell := range row {
			widths[c] = max(widths[c], len(cell))
		}
	}
	for n, row := range rows {
		var line strings.Builder
		for c, cell := range row {
			width := -widths[c] // to the left
			if n > 0 && first <= c && c <= last {
				width = widths[c]
			}
			fmt.Fprintf(&line, "%*s ", width, cell)
		}
		fmt.Fprintln(a.Stdout, indent+strings.TrimRight(line.String(), " "))
	}
}

func overlayPercent(i *overlay.Info) string {
	if i.Chunk == 0 {
		return "" // it could not be read while somebody writes it
	}
	return fields.Percent(&manager.CowStatus{
		Allocated: sectors(i.Usage.Allocated), Total: sectors(i.Usage.Total), Metadata: sectors(i.Usage.Metadata), Invalid: i.Usage.Invalid,
	})
}

func sectors(bytes int64) volume.Sectors { return volume.Sectors(bytes / 512) }

// overlayJSON is an overlay in --json. Sizes are in bytes.
type overlayJSON struct {
	Path        string `json:"path"`
	Base        string `json:"base"`
	Format      string `json:"base_format"`
	State       string `json:"state"`
	Reason      string `json:"reason,omitempty"`
	Created     string `json:"created"`
	Size        int64  `json:"size"`
	ChunkSize   int64  `json:"chunk_size"`
	Chunks      int    `json:"chunks"`
	StoreSize   int64  `json:"store_size"`
	Allocated   int64  `json:"allocated"`
	Metadata    int64  `json:"metadata"`
	DataPercent string `json:"data_percent"`
	Disk        *int64 `json:"disk,omitempty"`
}

func overlayReport(list []*overlay.Info) any {
	report := struct {
		Overlays []overlayJSON `json:"overlays"`
	}{[]overlayJSON{}}
	for _, i := range list {
		o := overlayJSON{
			Path: i.Path, Base: i.Base, Format: i.Format, State: string(i.State), Reason: i.Reason,
			Created: i.Created.UTC().Format(time.RFC3339), Size: i.Size, ChunkSize: i.Chunk, Chunks: i.Chunks,
			StoreSize: i.Usage.Total, Allocated: i.Usage.Allocated, Metadata: i.Usage.Metadata, DataPercent: overlayPercent(i),
		}
		if i.Disk >= 0 {
			o.Disk = &i.Disk
		}
		report.Overlays = append(report.Overlays, o)
	}
	return report
}

func newOverlayUsage(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "usage [OPTION]... FILE...", Aliases: []string{"status"}, Short: "Show how full overlays are, and their state",
		Long: `Show what is known of overlays: their base, how much of it they replace, what
they take on the disk, and whether they can be used.`,
		Example: `  cowl overlay usage vm1.cow
  cowl overlay usage --json vm1.cow`,
		Args: atLeast(1),
		RunE: func(_ *cobra.Command, args []string) error {
			list, failed := a.findOverlays(args)
			if asJSON {
				return errors.Join(a.sayJSON(overlayReport(list)), failed)
			}
			for _, i := range list {
				a.printUsage(i)
			}
			return failed
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object instead of lines")
	return cmd
}

func (a *app) printUsage(i *overlay.Info) {
	line := func(label, format string, args ...any) { a.say("%-23s%s", label, fmt.Sprintf(format, args...)) }
	a.say("--- Overlay ---")
	line("Path", "%s", i.Path)
	line("Base", "%s (%s)", i.Base, i.Format)
	line("State", "%s", i.State)
	if i.Reason != "" {
		line("", "%s", i.Reason)
	}
	line("Created", "%s", i.Created.In(a.Zone).Format("2006-01-02 15:04:05 -0700"))
	line("Size", "%s", sizeText(i.Size))
	if i.Chunk > 0 {
		line("Chunk size", "%s", sizeText(i.Chunk))
		line("Replaced chunks", "%d (%s)", i.Chunks, sizeText(int64(i.Chunks)*i.Chunk))
		line("Store", "%s of %s, %s%%", sizeText(i.Usage.Allocated), sizeText(i.Usage.Total), overlayPercent(i))
	}
	if i.Disk >= 0 {
		line("On the disk", "%s", sizeText(i.Disk))
	}
	a.say("")
}

func newOverlayServe(a *app) *cobra.Command {
	var socket string
	var noFiles, readOnly bool
	cmd := &cobra.Command{
		Use: "serve [OPTION]... FILE", Short: "Serve an overlay, in the foreground",
		Long: `Serve an overlay over NBD on a unix socket and, where /dev/fuse can be opened, as
a file, until SIGTERM or Ctrl-C. Nobody else may change the overlay meanwhile,
nor merge into its base or change that with cowl; others may read the base.

What a client flushes is on the disk when the answer comes; what it does not
flush reaches the disk within a few seconds. On a full disk writes fail with "no
space left", nothing is lost, and they work again when there is space.`,
		Example: `  cowl overlay serve vm1.cow
  cowl overlay serve --socket /tmp/vm1.sock vm1.cow
  qemu-img info "nbd+unix:///?socket=/tmp/vm1.sock"`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.serveOverlay(cmd.Context(), args[0], socket, noFiles, readOnly)
		},
	}
	f := cmd.Flags()
	f.StringVar(&socket, "socket", "", "listen on this `path` (default: one named after FILE where cowl's sockets are)")
	f.BoolVar(&noFiles, "nofiles", false, "serve no file, only NBD")
	f.BoolVarP(&readOnly, "read-only", "r", false, "let clients only read; others may serve the overlay so at the same time")
	return cmd
}

func (a *app) serveOverlay(ctx context.Context, path, socket string, noFiles, readOnly bool) error {
	o, err := overlay.Open(path, readOnly)
	if err != nil {
		return err
	}
	d, err := a.overlayPlace(path, socket, noFiles)
	if err == nil {
		d.Note = "overlay " + path + " on " + o.Base()
		err = daemon.ServeDevice(ctx, o.Device(), d)
	}
	return errors.Join(err, o.Close())
}

// overlayPlace decides where an overlay is served. Its names among the groups'
// sockets begin with what no group's name does.
func (a *app) overlayPlace(path, socket string, noFiles bool) (daemon.DeviceOptions, error) {
	name := filepath.Base(path)
	o := daemon.DeviceOptions{Name: name, Log: slog.New(slog.NewTextHandler(a.Stderr, nil))}
	if err := a.place(&o, "overlay~"+name, socket, noFiles); err != nil {
		return o, err
	}
	uri := nbd.URI{Network: "unix", Addr: o.Socket, Export: name}.String()
	o.Ready = func(file string) {
		a.note("Serving overlay %q: %s", path, uri)
		if file != "" {
			a.note("As a file: %s", file)
		}
	}
	return o, nil
}

// place decides where a device is served. name is that of its socket and
// directory in the run directory.
func (a *app) place(o *daemon.DeviceOptions, name, socket string, noFiles bool) error {
	paths, err := daemon.PathsFor(a.runDir(), name)
	if err != nil {
		return errs.WithHint(err, "Choose a socket: --socket")
	}
	if err := daemon.MakeRunDir(paths.Dir); err != nil {
		return err
	}
	o.Socket = paths.NBD
	if socket != "" {
		o.Socket = absolute(socket)
	}
	if !noFiles {
		o.Files = paths.Mount
	}
	return nil
}

func newOverlayMerge(a *app) *cobra.Command {
	var force, discard bool
	interval := option[int]{kind: "Seconds", parse: parseInterval}
	rate := rateOption()
	cmd := &cobra.Command{
		Use: "merge [OPTION]... FILE", Short: "Write an overlay into its base",
		Long: `Write what an overlay holds into its base, which must be a raw image or a block
device that nobody uses. The overlay is empty afterwards, and can be used again.

Other overlays on the base are of no use afterwards: they find it changed. Where
some are known, the command stops unless --force is given.

A merge that is interrupted, by a power cut too, goes on when the command is
given again. Until then the base is half old, half new, and the overlay can't be
used for anything else.`,
		Example: `  cowl overlay merge vm1.cow
  cowl overlay merge --rate 20M vm1.cow
  cowl overlay merge -y --discard vm1.cow`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.mergeOverlay(cmd.Context(), args[0], force, discard, interval, rate.value)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&force, "force", "f", false, "make other overlays on the base useless")
	f.BoolVar(&discard, "discard", false, "remove the overlay when it is merged")
	flagOf(f, &rate, "rate", "", "copy no more than so much a second: 20M; KiB without a unit")
	flagOf(f, &interval, "interval", "i", "show the progress every so many seconds (default 15)")
	return cmd
}

func (a *app) mergeOverlay(ctx context.Context, path string, force, discard bool, interval option[int], rate int64) error {
	i, err := overlay.Inspect(path)
	if err != nil {
		return err
	}
	if i.State != overlay.OK && i.State != overlay.Merging {
		return errs.E(errs.Conflict, "Overlay %s cannot be merged: %s: %s", path, i.State, i.Reason)
	}
	if err := a.mayMerge(i, force); err != nil {
		return err
	}
	if a.test {
		a.say("Would merge %d chunks of overlay %q into %s.", i.Chunks, path, i.Base)
		return nil
	}
	p := a.mergeProgress(path, interval)
	err = overlay.Merge(ctx, path, rate, func(left, total int) {
		if total > 0 {
			p.show(100 * float64(total-left) / float64(total))
		}
	})
	p.stop()
	if ctx.Err() != nil {
		return errs.WithHint(err, "%s is half merged. To go on: cowl overlay merge %s", i.Base, path)
	}
	if err != nil {
		return err
	}
	a.say("Merge of overlay %q into %s has finished.", path, i.Base)
	if discard {
		return a.removeOverlay(path, false)
	}
	return nil
}

// mayMerge makes sure that it is meant.
func (a *app) mayMerge(i *overlay.Info, force bool) error {
	others, err := overlay.Siblings(i.Path)
	if err != nil {
		return err
	}
	if len(others) > 0 && !force {
		return errs.WithHint(errs.E(errs.Conflict, "Merging would make other overlays on %s useless: %s", i.Base, strings.Join(others, ", ")),
			"Merge or discard them, or give --force.")
	}
	if i.State == overlay.Merging || a.test {
		return nil // it was asked before
	}
	ok, err := a.confirm("Do you really want to write overlay %s into %s?", i.Path, i.Base)
	if err != nil || !ok {
		return errors.Join(err, errors.New("Overlay "+i.Path+" not merged."))
	}
	return nil
}

func newOverlayRebase(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "rebase [OPTION]... FILE [BASE]", Short: "Tell an overlay that its base is another file now",
		Long: `Make an overlay take a file as its base that was moved, copied or restored, or
whose times have changed. Its size, and ranges that were sampled when the
overlay was made, must be the same; that the rest is the same is your word. On
another content the overlay would show nonsense.`,
		Example: `  mv base.img /images/ ; cowl overlay rebase vm1.cow /images/base.img
  cowl overlay rebase vm1.cow              # only its permissions were changed`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error { return a.rebaseOverlay(args) },
	}
	return cmd
}

func (a *app) rebaseOverlay(args []string) error {
	i, err := overlay.Inspect(args[0])
	if err != nil {
		return err
	}
	base := i.Base
	if len(args) > 1 {
		base = absolute(args[1])
	}
	if a.test {
		a.say("Would make %s the base of overlay %q.", base, args[0])
		return nil
	}
	ok, err := a.confirm("Is all of %s what the base of overlay %s was?", base, args[0])
	if err != nil || !ok {
		return errors.Join(err, errors.New("Overlay "+args[0]+" not rebased."))
	}
	if err := overlay.Rebase(args[0], base); err != nil {
		return err
	}
	a.say("Overlay %q is on %s now.", args[0], base)
	return nil
}

func newOverlayDiscard(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "discard [OPTION]... FILE...", Short: "Remove overlays and what was written to them",
		Long: `Remove overlays that nobody uses. Their base is not touched. An overlay that is
half merged is removed with --force only: without it its base stays half new.`,
		Example: `  cowl overlay discard vm2.cow
  cowl overlay discard -y vm*.cow`,
		Args: atLeast(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var failed error
			for _, path := range args {
				if err := a.discardOverlay(path, force); err != nil {
					a.complain(err)
					failed = errSilent
				}
			}
			return failed
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask, and remove one that is half merged")
	return cmd
}

func (a *app) discardOverlay(path string, force bool) error {
	i, err := overlay.Inspect(path)
	if err != nil {
		return err
	}
	if i.State == overlay.InUse {
		return errs.E(errs.Busy, "Overlay %s is in use: not removed.", path)
	}
	if a.test {
		a.say("Would remove overlay %q.", path)
		return nil
	}
	if !force {
		ok, err := a.confirm("Do you really want to remove overlay %s with %d changed chunks?", path, i.Chunks)
		if err != nil || !ok {
			return errors.Join(err, errors.New("Overlay "+path+" not removed."))
		}
	}
	return a.removeOverlay(path, force)
}

func (a *app) removeOverlay(path string, force bool) error {
	if err := overlay.Discard(path, force); err != nil {
		return err
	}
	a.say("Overlay %q successfully removed.", path)
	return nil
}
