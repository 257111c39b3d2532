package cli

import (
	"context"

	"github.com/spf13/cobra"

	"cowl/internal/backup"
	"cowl/internal/backup/repo"
	"cowl/internal/backup/repo/targets"
	"cowl/internal/manager"
)

// restoreFlags are the options of cowl restore.
type restoreFlags struct {
	force, json, create, inPlace, overwrite bool
	file                                    string
	access                                  accessFlags
	all                                     bool
	metadata                                string
	pvs                                     []string
}

func newRestore(a *app) *cobra.Command {
	var o restoreFlags
	cmd := &cobra.Command{
		Use: "restore IMAGE|TARGET::BACKUP[:/PATH] VG/LV|DEST|--file FILE|--all TARGET VG [OPTION]...", Short: "Write a backup back into a volume, or bring files back", GroupID: groupOwn,
		Long: `Write an image (raw or qcow2), or a backup in a repository, over the beginning of an existing
volume, or into a new one, and read it back.

Before the first byte is overwritten the backup is checked: an image is compared
with its manifest, which stands beside it as IMAGE.json; what is in a repository
is read as a whole. A volume that is in use, read-only, merging or smaller than
the image is refused; of a larger one the rest stays as it is. Snapshots of the
volume keep showing what it held before, as far as there is room in them.

--in-place reads the volume and writes only the blocks that differ: to go back
to a recent backup it writes little, and costs snapshots little. --create makes
the volume. --file writes a backup from a repository into a sparse file.

A backup is named as cowl list shows it (or by the beginning of its ID), by
VG/LV for the latest of a volume, or as latest if all are of one volume.

An image from elsewhere has no manifest: --force writes it unchecked, one that
begins as qemu's do as what it holds. The
volume is compared with what was read in any case.

With a path behind the backup, the file or directory there is brought back to
DEST, and no volume is touched. It is what cowl cp does, see there; a snapshot
can be named as well.

--all TARGET VG restores all volumes of a group from the latest instant that is
there as a whole, in a repository or a directory of images. Those that are missing
are made; nothing is written if any of the others is in use or too small.

After the loss of a machine, --pv makes the group too, of files or devices that
are in no group: its name, extent size and tags, the volumes' names, sizes,
permissions and tags are as they were, their UUIDs are new; volumes are linear. The
lines of /etc/fstab that were theirs are printed. For the same UUIDs and layout
on disks of the same sizes use lvm2's vgcfgrestore with what --metadata writes, and
then --all without --pv.

` + passwordHelp,
		Example: `  cowl restore /backups/server1-root.20260102T030405Z.raw server1/root
  cowl restore repo:/backups/cowl::latest server1/root --in-place
  cowl restore repo:/backups/cowl::server1/root server1/copy --create
  cowl restore repo:/backups/cowl::3f2a91c0 --file root.img
  cowl restore repo:/backups/cowl::latest:/etc/fstab /tmp
  cowl restore server1/monday:/home/ann/thesis /home/ann --overwrite
  cowl restore --all repo:/backups/cowl server1
  cowl restore --all /backups server1 --pv /dev/sdb --pv /dev/sdc
  cowl restore --force disk.img server1/new`,
		Args: func(cmd *cobra.Command, args []string) error {
			if o.all {
				return atLeast(1)(cmd, args)
			}
			if want := 2; len(args) != want && !(o.file != "" && len(args) == 1) || o.file != "" && len(args) != 1 {
				return noSyntax(cmd)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.all {
				return o.runAll(cmd, a, args)
			}
			if len(o.pvs) > 0 || o.metadata != "" {
				return usage(cmd, "--pv and --metadata are for --all.")
			}
			return o.run(cmd, a, args)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVarP(&o.force, "force", "f", false, "write an image that is damaged or has no manifest; replace a file")
	f.BoolVar(&o.inPlace, "in-place", false, "write only the blocks that differ")
	f.BoolVar(&o.create, "create", false, "make the volume")
	f.BoolVar(&o.all, "all", false, "restore all volumes of a group, as they were at the latest instant: TARGET VG")
	f.StringVar(&o.metadata, "metadata", "", "with --all: write the group's metadata, for vgcfgrestore, into this `file`, and no more")
	f.StringArrayVar(&o.pvs, "pv", nil, "with --all: make the group first, of this `PV`; may be given several times")
	f.StringVar(&o.file, "file", "", "write into this `file` instead of a volume")
	f.BoolVar(&o.overwrite, "overwrite", false, "of files that are brought back: replace those that exist")
	o.access.add(f)
	f.BoolVar(&o.json, "json", false, "print one JSON object instead of a summary")
	return cmd
}

func (o *restoreFlags) run(cmd *cobra.Command, a *app, args []string) error {
	if hasPath(args[0]) {
		if o.force || o.create || o.inPlace || o.file != "" {
			return usage(cmd, "--force, --create, --in-place and --file are for whole backups; %s names files in one.", args[0])
		}
		c := cpFlags{overwrite: o.overwrite, json: o.json, access: o.access}
		return c.run(cmd, a, args)
	}
	if o.overwrite {
		return usage(cmd, "--overwrite is for files: name them as %s:/PATH.", args[0])
	}
	t, backupName, err := targets.Parse(args[0])
	switch {
	case err != nil:
		return usageError(cmd, err)
	case t.IsRepository() && backupName == "":
		return usage(cmd, "%s is a repository: name a backup in it, as %[1]s::BACKUP. cowl list %[1]s shows them.", args[0])
	case !t.IsRepository() && o.file != "":
		return usage(cmd, "--file is for backups in a repository; an image is a file already.")
	case o.file != "" && (o.create || o.inPlace):
		return usage(cmd, "--create and --in-place are for volumes.")
	case o.create && o.inPlace:
		return usage(cmd, "There is nothing in place in a volume that is made.")
	}
	image := args[0]
	if !t.IsRepository() {
		if backupName != "" { // DIR::IMAGE, as list shows it
			image = t.Path + "/" + backupName
		}
		return o.toVolume(cmd, a, args[1], backup.RestoreOptions{Image: image})
	}
	return a.withRepo(cmd.Context(), t, o.access, true, func(r *repo.Repo) error {
		return a.withShared(cmd.Context(), r, "restore of "+backupName, func(ctx context.Context) error {
			b, err := r.Find(ctx, backupName)
			if err != nil {
				return err
			}
			if o.file != "" {
				return o.toFile(ctx, a, image, r, b)
			}
			return o.toVolume(cmd, a, args[1], backup.RestoreOptions{Image: image, Repo: r, Backup: b})
		})
	})
}

// withShared runs f while the repository is kept from being cleared of what it
// reads.
func (a *app) withShared(ctx context.Context, r *repo.Repo, purpose string, f func(context.Context) error) error {
	return a.withLock(ctx, r, purpose, "", f)
}

// withLock is withShared that also keeps one backup from being forgotten. The
// context that f gets ends if the lock is lost.
func (a *app) withLock(ctx context.Context, r *repo.Repo, purpose, id string, f func(context.Context) error) error {
	ctx, lock, err := r.Lock(ctx, repo.Shared, purpose, id)
	if err != nil {
		return err
	}
	defer lock.Release(ctx)
	return f(ctx)
}

func (o *restoreFlags) toVolume(cmd *cobra.Command, a *app, arg string, options backup.RestoreOptions) error {
	name, err := a.lvArg(arg)
	if err != nil {
		return usageError(cmd, err)
	}
	return a.withGroup(cmd.Context(), name.VG, func(g manager.Group, _ *manager.Status) error {
		p := a.newProgress()
		options.LV, options.Force, options.Create, options.InPlace = name.LV, o.force, o.create, o.inPlace
		options.DryRun, options.Reporter = a.test, p.reporter()
		r, err := backup.Restore(cmd.Context(), g, options)
		p.end()
		if err != nil {
			return err
		}
		return o.say(a, name, r)
	})
}

func (o *restoreFlags) toFile(ctx context.Context, a *app, image string, store *repo.Repo, b *repo.Backup) error {
	p := a.newProgress()
	r, err := backup.Export(ctx, backup.ExportOptions{
		Repo: store, Backup: b, Image: image, File: o.file, Force: o.force, DryRun: a.test, Reporter: p.reporter(),
	})
	p.end()
	switch {
	case err != nil:
		return err
	case o.json:
		return a.sayJSON(r)
	case a.test:
		a.say("Would write %s into %s.", sizeText(r.Bytes), o.file)
		return nil
	}
	a.say("Restored %s to %s.", r.Image, r.File)
	a.say("%s, %s on disk, read back and equal, %s.", sizeText(r.Bytes), sizeText(r.StoredBytes), took(r.Seconds, r.Rate))
	return nil
}

// say prints what a restore did.
func (o *restoreFlags) say(a *app, name lvName, r *backup.RestoreReport) error {
	switch {
	case o.json:
		return a.sayJSON(r)
	case a.test && o.create:
		a.say("Would make %s and write %s into it.", name, sizeText(r.ImageBytes))
		return nil
	case a.test:
		a.say("Would overwrite the first %s of %s.", sizeText(r.ImageBytes), name)
		return nil
	}
	a.say("Restored %s to %s.", r.Image, name)
	if o.inPlace {
		a.say("%s differed and were written; all %s read back and equal, %s.", sizeText(r.WrittenBytes), sizeText(r.ImageBytes), took(r.Seconds, r.Rate))
	} else {
		a.say("%s written, read back and equal, %s.", sizeText(r.ImageBytes), took(r.Seconds, r.Rate))
	}
	if r.UntouchedBytes > 0 && !r.Created {
		a.say("The last %s of the volume are as they were: the image is smaller.", sizeText(r.UntouchedBytes))
	}
	return nil
}
