package cli

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"cowl/internal/daemon"
	"cowl/internal/errs"
)

func newServe(a *app) *cobra.Command {
	var noFiles bool
	var o serveBackupFlags
	cmd := &cobra.Command{
		Use: "serve [OPTION]... VG [LV]...|BACKUP", Short: "Own a group and serve its volumes, or serve a backup, in the foreground", GroupID: groupOwn,
		Long: `Own a volume group for as long as this command runs: activate its volumes, or
those that are named, and serve them as NBD exports on a unix socket and, where
/dev/fuse can be opened, as files.

This is what vgchange -ay starts in the background. It ends on SIGTERM or
Ctrl-C, after requests that have arrived are finished and everything is flushed,
and when the last volume is deactivated.

A BACKUP is served in the same way, for reading only, and for as long as this
command runs: a raw or qcow2 image (its path has a slash in it: ./root.raw), a
backup in a directory (DIR::IMAGE), or one in a repository (repo:DIR::BACKUP),
of which only what clients read is fetched, unpacked and kept in memory,
64 MiB of it. What is damaged gives clients an I/O error and a line here that
names it, and never wrong data: an image is held against its manifest, 64 MiB at
a time, before any of these is told; --unchecked leaves that out. A backup in a
repository cannot be forgotten meanwhile.

With --against, NBD clients can also ask for what differs from another backup,
image or volume: as the metadata context qemu:dirty-bitmap:changed.

` + passwordHelp,
		Example: `  cowl serve vg
  nbdinfo "nbd+unix:///data?socket=$XDG_RUNTIME_DIR/cowl/vg.nbd"
  mount -o loop $XDG_RUNTIME_DIR/cowl/vg/data /mnt
  cowl serve repo:/backups/cowl::latest --socket /tmp/old.sock
  cowl serve repo:/backups/cowl::3f2a91c0 --against repo:/backups/cowl::86d1fff7
  nbdinfo --map=qemu:dirty-bitmap:changed "nbd+unix:///?socket=/tmp/old.sock"`,
		Args: atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if isBackup(args[0]) {
				o.noFiles = noFiles
				return o.run(cmd, a, args)
			}
			if o.given(cmd) {
				return usage(cmd, "%s would be a volume group, and --socket, --against, --unchecked and --json are for backups.", args[0])
			}
			name, err := groupName(args[0])
			if err != nil {
				return usageError(cmd, err)
			}
			return a.serve(cmd.Context(), name, args[1:], noFiles)
		},
	}
	cmd.Flags().StringVar(&a.rundir, "rundir", "", "keep the sockets in this `directory` (also $COWL_RUN_DIR)")
	cmd.Flags().StringVar(&a.statedir, "statedir", "", "keep copies of the metadata in this `directory` (also $COWL_STATE_DIR)")
	cmd.Flags().BoolVar(&noFiles, "nofiles", false, "serve no files, only NBD")
	o.add(cmd.Flags())
	return cmd
}

// serve owns the group until ctx ends. Whoever spawned this process is told
// how the start went.
func (a *app) serve(ctx context.Context, name string, lvs []string, noFiles bool) error {
	ready, err := daemon.InheritReadiness()
	if err != nil {
		return err
	}
	a.log = slog.New(slog.NewTextHandler(a.Stderr, nil))
	g, err := a.host().OpenLocal(ctx, name)
	if errs.Is(err, errs.NotFound) {
		if err = noGroup(name); isFile(name) {
			err = errs.WithHint(err, "The file of that name is served as ./%s", name)
		}
	}
	if err != nil {
		ready.Report(nil, err)
		return err
	}
	paths, err := daemon.PathsFor(a.runDir(), name)
	if err == nil && ready == nil {
		a.note("Serving volume group %q: NBD socket %s, files below %s", name, paths.NBD, paths.Mount)
	}
	return daemon.Serve(ctx, g, daemon.Options{
		RunDir: a.runDir(), Group: name, Activate: lvs, NoFiles: noFiles, Ready: ready,
		Log: a.log,
	})
}

// serveCommand is the command line of a daemon for the target. It runs in
// another directory, so all paths are absolute, those of the environment too.
func (a *app) serveCommand(t target) []string {
	argv := []string{a.Executable, "serve", "--rundir", a.runDir()}
	devices := a.devices
	if list := a.Getenv("COWL_DEVICES"); len(devices) == 0 && list != "" {
		devices = strings.Split(list, ",")
	}
	for _, d := range devices {
		argv = append(argv, "--devices", absolute(strings.TrimSpace(d)))
	}
	file := a.devicesFile
	if file == "" {
		file = a.Getenv("COWL_DEVICES_FILE")
	}
	if dir := a.stateDir(); dir != "" {
		argv = append(argv, "--statedir", dir)
	}
	if file != "" {
		if strings.ContainsRune(file, filepath.Separator) { // else it is a name beside the default
			file = absolute(file)
		}
		argv = append(argv, "--devicesfile", file)
	}
	return append(append(argv, "--", t.group), t.names...)
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
