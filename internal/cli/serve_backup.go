package cli

import (
	"context"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cowl/internal/backup"
	"cowl/internal/backup/repo/targets"
	"cowl/internal/block"
	"cowl/internal/block/cached"
	"cowl/internal/daemon"
	"cowl/internal/errs"
	"cowl/internal/export"
	"cowl/internal/export/nbd"
	"cowl/internal/volume"
)

// serveBackupFlags are the options of cowl serve that are about backups.
type serveBackupFlags struct {
	socket, against          string
	unchecked, noFiles, json bool
	access                   accessFlags
}

func (o *serveBackupFlags) add(f *pflag.FlagSet) {
	f.StringVar(&o.socket, "socket", "", "of a backup: listen on this `path` (default: one named after it where cowl's sockets are)")
	f.StringVar(&o.against, "against", "", "tell NBD clients what differs from this `backup`, image or volume")
	f.BoolVar(&o.unchecked, "unchecked", false, "serve an image as it is, without its manifest")
	f.BoolVar(&o.json, "json", false, "of a backup: say in JSON where it is served")
	o.access.add(f)
}

// given tells whether one of the options was that a group has no use for.
func (o *serveBackupFlags) given(cmd *cobra.Command) bool {
	for _, name := range []string{"socket", "against", "unchecked", "json"} {
		if cmd.Flags().Changed(name) {
			return true
		}
	}
	return false
}

// isBackup tells whether an argument names a backup or an image. A group's name
// has no slash, unless it is below /dev, where groups are directories.
func isBackup(arg string) bool {
	t, id, err := targets.Parse(arg)
	return err == nil && (t.IsRepository() || id != "") || strings.Contains(arg, "/") && isFile(arg)
}

// bitmapName is what the bitmap of --against is called.
const bitmapName = "changed"

func (o *serveBackupFlags) run(cmd *cobra.Command, a *app, args []string) error {
	if len(args) > 1 {
		return usage(cmd, "One backup at a time: %s is too much.", args[1])
	}
	boundMemory()
	open := a.opener(o.access)
	return open.with(cmd.Context(), args[0], func(s *source) error {
		ctx := cmd.Context()
		if s.lost != nil {
			ctx = s.lost
		}
		dev, own, err := o.prepare(a, s)
		if err != nil {
			return err
		}
		if own {
			defer dev.Close()
		}
		served := daemon.DeviceOptions{Name: servedName(s), Note: "backup " + s.name}
		if o.against == "" {
			return o.serve(ctx, a, s, dev, served)
		}
		return open.with(ctx, o.against, func(other *source) error {
			runs, err := o.compare(ctx, s, dev, other)
			if err != nil {
				return err
			}
			served.Bitmaps = []export.Bitmap{{Name: bitmapName, Runs: runs}}
			if other.lost != nil {
				var cancel context.CancelCauseFunc
				ctx, cancel = context.WithCancelCause(ctx)
				defer cancel(nil)
				defer context.AfterFunc(other.lost, func() { cancel(context.Cause(other.lost)) })()
			}
			return o.serve(ctx, a, s, dev, served)
		})
	})
}

// prepare returns what is served of a source, and whether it is not the source's
// own device and has to be closed.
func (o *serveBackupFlags) prepare(a *app, s *source) (dev block.Device, own bool, err error) {
	if s.record != nil {
		return cached.New(s.dev, cached.Options{Block: max(s.record.Image.Segment, 64<<10)}), true, nil
	}
	if _, err := os.Stat(s.file); err != nil { // a partition of it, which has no manifest
		return s.dev, false, nil
	}
	dev, checked, err := backup.OpenImage(s.file, o.unchecked)
	switch {
	case err != nil && errs.Is(err, errs.Corrupt):
		return nil, false, errs.WithHint(err, "--unchecked serves it as it is.")
	case err != nil:
		return nil, false, err
	case !checked && !o.unchecked:
		a.note("%s has no manifest: what is read from it is not checked.", s.name)
	}
	return dev, true, nil
}

// compare returns the runs of --against.
func (o *serveBackupFlags) compare(ctx context.Context, s *source, dev block.Device, other *source) (func(off, length int64) iter.Seq2[export.Run, error], error) {
	if s.record != nil && other.record != nil {
		dev = s.dev // whose index says what is the same
	}
	return backup.Against(ctx, dev, other.dev)
}

// servedName is what a backup is called as an export and as a file.
func servedName(s *source) string {
	if r := s.record; r != nil {
		return volume.DMName(r.Source.VG, r.Source.LV) + "." + r.Snapshot.Time.UTC().Format("20060102T150405Z") + ".raw"
	}
	return filepath.Base(s.file)
}

// servedBackup is what --json says once clients can connect.
type servedBackup struct {
	Backup  string `json:"backup"`
	Bytes   int64  `json:"bytes"`
	NBD     string `json:"nbd"`
	File    string `json:"file,omitempty"`
	Context string `json:"changed_context,omitempty"` // of --against
}

// serve serves a backup until ctx ends.
func (o *serveBackupFlags) serve(ctx context.Context, a *app, s *source, dev block.Device, d daemon.DeviceOptions) error {
	d.Log = slog.New(slog.NewTextHandler(a.Stderr, nil))
	if err := a.place(&d, "backup~"+d.Name, o.socket, o.noFiles); err != nil {
		return err
	}
	out := servedBackup{Backup: s.name, Bytes: dev.Size(), NBD: nbd.URI{Network: "unix", Addr: d.Socket, Export: d.Name}.String()}
	if len(d.Bitmaps) > 0 {
		out.Context = nbd.BitmapContext(bitmapName)
	}
	var sayErr error
	d.Ready = func(file string) {
		if out.File = file; o.json {
			sayErr = a.sayJSON(out)
			return
		}
		a.say("Serving %s: %s", s.name, out.NBD)
		if file != "" {
			a.say("As a file: %s", file)
		}
		if out.Context != "" {
			a.say("What differs from %s: metadata context %s", o.against, out.Context)
		}
	}
	if err := daemon.ServeDevice(ctx, dev, d); err != nil || sayErr != nil {
		return err
	}
	if cause := context.Cause(ctx); errs.Is(cause, errs.Conflict) { // the lock was lost
		return cause
	}
	return nil
}
