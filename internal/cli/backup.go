package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cowl/internal/backup"
	"cowl/internal/backup/repo"
	"cowl/internal/backup/repo/targets"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// backupFlags are the options of cowl backup.
type backupFlags struct {
	to      string
	format  option[backup.Format]
	size    option[int64]
	extents option[volume.Size]
	json    bool
	access  accessFlags
}

func newBackup(a *app) *cobra.Command {
	o := backupFlags{
		format:  option[backup.Format]{value: backup.Raw, kind: "raw|tar", parse: oneOf(map[string]backup.Format{"raw": backup.Raw, "tar": backup.Tar})},
		size:    sizeOption('m'),
		extents: option[volume.Size]{kind: "Number[%VG|FREE|ORIGIN]", parse: volume.ParseExtents},
	}
	cmd := &cobra.Command{
		Use: "backup VG/LV --to TARGET [OPTION]...", Short: "Back up a volume in use, from a snapshot", GroupID: groupOwn,
		Long: `Back up a volume while it is in use. cowl takes a snapshot of it, writes an
image of that into the target, removes the snapshot, reads the image back and
compares it with what was read from the volume. A volume that is a snapshot
itself is backed up as it is, and stays.

The target is a directory of plain files, or a repository (repo:DIR, see cowl
repo), which keeps images deduplicated, compressed and encrypted.

In a directory there are then
  VG-LV.TIME.raw          the image; it has this name only once it is verified
  VG-LV.TIME.raw.json     what it is of, sizes, SHA-256 of the whole and of ranges
  VG-LV.TIME.raw.sha256   for sha256sum -c
What is hidden and called .partial was left by a backup that was killed.

Format raw is the volume's bytes; holes and zeroes take no space. Format tar is
the files of an ext2, ext3 or ext4 in the volume, which cowl reads itself, or of
an XFS, which it mounts (root, Linux): owners by number, modes, times, links,
devices, extended attributes, ACLs, holes.

` + passwordHelp + `

The snapshot has room for what changes on the volume meanwhile. If it overflows,
the backup fails; -L gives it more. Without -L it takes up to half of the
group's free space, and no more than can ever be of use.`,
		Example: `  cowl backup server1/root --to /backups
  cowl backup server1/root --to /backups -L 2G --json
  cowl backup server1/home --to /backups --format tar
  cowl backup server1/root --to repo:/backups/cowl
  cowl backup server1/rootsnapshot --to /backups`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, a, args[0]) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.to, "to", "", "a directory for plain files, or a repository: the `target`")
	flagOf(f, &o.format, "format", "", "what a plain file is (raw)")
	flagOf(f, &o.size, "size", "L", "room for the snapshot")
	flagOf(f, &o.extents, "extents", "l", "room for the snapshot, in extents")
	o.access.add(f)
	f.BoolVar(&o.json, "json", false, "print one JSON object instead of a summary")
	return cmd
}

func (o *backupFlags) run(cmd *cobra.Command, a *app, arg string) error {
	name, err := a.lvArg(arg)
	switch {
	case err != nil:
		return usageError(cmd, err)
	case o.to == "":
		return usage(cmd, "No target: name it with --to.")
	case o.size.given && o.extents.given:
		return usage(cmd, "Please specify only one of --size and --extents.")
	}
	if err := notZero(o.size.given, o.size.value == 0, "size"); err != nil {
		return usageError(cmd, err)
	}
	if err := notZero(o.extents.given, o.extents.value.IsZero(), "extents"); err != nil {
		return usageError(cmd, err)
	}
	size := o.extents.value
	if o.size.given {
		size = volume.Size{Bytes: o.size.value}
	}
	t, id, err := targets.Parse(o.to)
	switch {
	case err != nil:
		return usageError(cmd, err)
	case id != "":
		return usage(cmd, "%s is a backup: name the target alone.", o.to)
	case t.IsRepository() && o.format.given:
		return usage(cmd, "--format is of plain files; a repository keeps images.")
	case t.IsRepository():
		return o.runRepository(cmd, a, name, t, size)
	}
	return a.withGroup(cmd.Context(), name.VG, func(g manager.Group, _ *manager.Status) error {
		p := a.newProgress()
		r, err := backup.Run(cmd.Context(), g, backup.Options{
			LV: name.LV, Dir: o.to, Format: o.format.value, SnapshotSize: size, Tool: program(), DryRun: a.test, Reporter: p.reporter(),
		})
		p.end()
		return errors.Join(err, o.say(a, name, r))
	})
}

// runRepository backs up into a repository.
func (o *backupFlags) runRepository(cmd *cobra.Command, a *app, name lvName, t targets.Target, size volume.Size) error {
	ctx := cmd.Context()
	return a.withRepo(ctx, t, o.access, false, func(store *repo.Repo) error {
		return a.withGroup(ctx, name.VG, func(g manager.Group, _ *manager.Status) error {
			p := a.newProgress()
			r, err := backup.RunRepository(ctx, g, backup.RepositoryOptions{
				LV: name.LV, Repo: store, SnapshotSize: size, Tool: program(), DryRun: a.test, Reporter: p.reporter(),
			})
			p.end()
			return errors.Join(err, o.sayStored(a, name, t, r))
		})
	})
}

// sayStored prints what a backup into a repository did, if it got so far.
func (o *backupFlags) sayStored(a *app, name lvName, t targets.Target, r *backup.RepositoryReport) error {
	switch {
	case r == nil:
		return nil
	case o.json:
		return a.sayJSON(r)
	case a.test:
		a.say("Would back up %s to %s.", name, t)
		return nil
	}
	a.say("Backed up %s to %s::%s.", name, t, short(r.Backup))
	parts := []string{sizeText(r.Read) + " read", sizeText(r.Changed) + " changed", sizeText(r.Written) + " stored", "verified", took(r.Seconds, r.Rate)}
	if r.SnapshotFill != nil {
		parts = append(parts, fmt.Sprintf("snapshot at most %.2f%% full", *r.SnapshotFill))
	}
	a.say("%s.", strings.Join(parts, ", "))
	return nil
}

// say prints what a backup did, if it got so far.
func (o *backupFlags) say(a *app, name lvName, r *backup.Report) error {
	switch {
	case r == nil:
		return nil
	case o.json:
		return a.sayJSON(r)
	case a.test:
		a.say("Would back up %s to %s.", name, r.Image)
		return nil
	}
	a.say("Backed up %s to %s.", name, r.Image)
	a.say("%s", summary(r))
	return nil
}

// summary is the one line at the end of a backup.
func summary(r *backup.Report) string {
	parts := []string{sizeText(r.ReadBytes) + " read", sizeText(r.StoredBytes) + " stored", "verified"}
	if r.Files > 0 {
		parts[0] = fmt.Sprintf("%d files", r.Files)
	}
	parts = append(parts, took(r.Seconds, r.Rate))
	if r.SnapshotFill != nil {
		parts = append(parts, fmt.Sprintf("snapshot at most %.2f%% full", *r.SnapshotFill))
	}
	return strings.Join(parts, ", ") + "."
}

// sizeText is a size within a sentence.
func sizeText(bytes int64) string { return strings.TrimSpace(volume.LongSize(bytes)) }

// took writes a time and a rate.
func took(seconds, rate float64) string {
	d := time.Duration(seconds * float64(time.Second)).Round(10 * time.Millisecond)
	return fmt.Sprintf("%v at %s/s", d, sizeText(int64(rate)))
}

// sayJSON writes the one object that a verb prints with --json.
func (a *app) sayJSON(v any) error {
	e := json.NewEncoder(a.Stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
