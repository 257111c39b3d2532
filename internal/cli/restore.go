package cli

import (
	"github.com/spf13/cobra"

	"cowl/internal/backup"
	"cowl/internal/manager"
)

// restoreFlags are the options of cowl restore.
type restoreFlags struct{ force, json bool }

func newRestore(a *app) *cobra.Command {
	var o restoreFlags
	cmd := &cobra.Command{
		Use: "restore IMAGE VG/LV [OPTION]...", Short: "Write an image back into a volume", GroupID: groupOwn,
		Long: `Write a raw image over the beginning of an existing volume, and read it back.

Before the first byte is written the image is compared with its manifest, which
stands beside it as IMAGE.json. A volume that is in use, read-only, merging or
smaller than the image is refused; of a larger one the rest stays as it is.
Snapshots of the volume keep showing what it held before, as far as there is
room in them.

An image from elsewhere has no manifest: --force writes it unchecked. The
volume is compared with what was read in any case. An archive (format tar) is
unpacked by tar, into a file system that you make and mount.`,
		Example: `  cowl restore /backups/server1-root.20260102T030405Z.raw server1/root
  cowl restore --force disk.img server1/new`,
		Args: exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, a, args[0], args[1]) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVarP(&o.force, "force", "f", false, "write an image that is damaged or has no manifest")
	f.BoolVar(&o.json, "json", false, "print one JSON object instead of a summary")
	return cmd
}

func (o *restoreFlags) run(cmd *cobra.Command, a *app, image, arg string) error {
	name, err := a.lvArg(arg)
	if err != nil {
		return usageError(cmd, err)
	}
	return a.withGroup(cmd.Context(), name.VG, func(g manager.Group, _ *manager.Status) error {
		p := a.newProgress()
		r, err := backup.Restore(cmd.Context(), g, backup.RestoreOptions{
			Image: image, LV: name.LV, Force: o.force, DryRun: a.test, Reporter: p.reporter(),
		})
		p.end()
		if err != nil {
			return err
		}
		return o.say(a, name, r)
	})
}

// say prints what a restore did.
func (o *restoreFlags) say(a *app, name lvName, r *backup.RestoreReport) error {
	switch {
	case o.json:
		return a.sayJSON(r)
	case a.test:
		a.say("Would overwrite the first %s of %s.", sizeText(r.ImageBytes), name)
		return nil
	}
	a.say("Restored %s to %s.", r.Image, name)
	a.say("%s written, read back and equal, %s.", sizeText(r.ImageBytes), took(r.Seconds, r.Rate))
	if r.UntouchedBytes > 0 {
		a.say("The last %s of the volume are as they were: the image is smaller.", sizeText(r.UntouchedBytes))
	}
	return nil
}
