package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cowl/internal/backup"
	"cowl/internal/backup/repo"
	"cowl/internal/backup/repo/targets"
	"cowl/internal/quiet"
	"cowl/internal/volume"
)

// backupFlags are the options of cowl backup.
type backupFlags struct {
	to      string
	format  option[backup.Format]
	shrink  option[backup.Compression]
	domain  string
	room    roomFlags
	noTrack bool
	full    bool
	json    bool
	hooks   hookFlags
	access  accessFlags
}

func newBackup(a *app) *cobra.Command {
	o := backupFlags{
		hooks:  newHookFlags(),
		format: option[backup.Format]{value: backup.Raw, kind: "raw|tar|qcow2", parse: oneOf(map[string]backup.Format{"raw": backup.Raw, "tar": backup.Tar, "qcow2": backup.Qcow2})},
		shrink: option[backup.Compression]{kind: "none|zlib|gzip|zstd", parse: oneOf(map[string]backup.Compression{"none": backup.None, "zlib": backup.Zlib, "gzip": backup.Gzip, "zstd": backup.Zstd})},
		room:   newRoom(),
	}
	cmd := &cobra.Command{
		Use: "backup VG/LV...|VG --to TARGET [OPTION]...", Short: "Back up volumes in use, from snapshots", GroupID: groupOwn,
		Long: `Back up a volume while it is in use. cowl takes a snapshot of it, writes an
image of that into the target, removes the snapshot, reads the image back and
compares it with what was read from the volume. A volume that is a snapshot
itself is backed up as it is, and stays.

Several volumes, or all of a group, are backed up as they were at one instant,
also if they are of several groups: their snapshots are taken together. Each has a backup of its own in the
target, and all of these one instant's ID. If one fails, the others are kept.

The target is a directory of plain files, or a repository (as cowl repo names them),
which keeps images deduplicated, compressed and encrypted.

In a directory there are then
  VG-LV.TIME.raw          the image (.tar, .qcow2); it has this name only once it is verified
  VG-LV.TIME.raw.json     what it is of, sizes, SHA-256 of the whole and of ranges
  VG-LV.TIME.raw.sha256   for sha256sum -c
What is hidden and called .partial was left by a backup that was killed.

Format raw is the volume's bytes; holes and zeroes take no space. Format tar is
the files of an ext2, ext3 or ext4 in the volume, which cowl reads itself, or of
an XFS, which it mounts (root, Linux): owners by number, modes, times, links,
devices, extended attributes, ACLs, holes. --compress zstd or gzip compresses the
archive (.tar.zst, .tar.gz).

Format qcow2 is the volume's bytes in qemu's image format, for virtual machines
to run from: clusters of zeroes take no space, others are as they are, or
compressed with --compress zlib (any qemu) or zstd (5.1 and later). What is
written to a compressed image is not compressed.

--domain-xml copies a libvirt domain (virsh dumpxml) beside the images, with
these as the sources of its disks in place of the volumes. Only that is changed in
it; cowl says what else it refers to that is not in the backup.

` + passwordHelp + `

File systems that are mounted from a volume's file (by a loop device; as root)
are frozen for the moment in which the snapshots are taken. Hooks bring
applications to rest: commands of the shell that are run
  --before-snapshot  first; if it fails there is no backup
  --after-snapshot   once the snapshots are there, and whenever before-snapshot
                     was run, whatever happened since: what that stopped goes on
  --after-backup     when all backups are good
  --on-failure       when one is not
They find COWL_STAGE, COWL_VG, COWL_VOLUMES, COWL_TARGET, COWL_INSTANT,
COWL_RESULT (ok, warning, failed), COWL_ERROR and COWL_BACKUPS (one a line) in
their environment. One that takes longer than --hook-timeout is killed. If all
that failed is a later hook, or the end of a snapshot, the exit code is 1.

Into a repository, the snapshot stays until the next backup: it knows what
changes from now on, and the next backup reads only that, as long as it is
certain that this is all; otherwise it reads everything and says why. While it
is there, the first write to each of its chunks costs more, and discards free
nothing. It grows while the group has space; without space it is lost, and only
the next backup pays for that. Without -L it has room for a tenth of the volume
at first. --no-track removes the snapshot.

Otherwise the snapshot has room for what changes on the volume meanwhile. If it
overflows, the backup fails; -L gives it more. Without -L it takes up to half of
the group's free space, which several share, and no more than can ever be of use.`,
		Example: `  cowl backup server1/root --to /backups
  cowl backup server1/db server1/log --to /backups
  cowl backup server1 --to repo:/backups/cowl
  cowl backup server1/db fast/log --to repo:/backups/cowl
  cowl backup server1/db --to /backups --before-snapshot 'systemctl stop db' --after-snapshot 'systemctl start db'
  cowl backup server1/root --to /backups -L 2G --json
  cowl backup server1/home --to /backups --format tar --compress zstd
  cowl backup guests/web guests/web-data --to /backups --format qcow2 --compress zstd
  cowl backup guests/web guests/web-data --to /backups --format qcow2 --domain-xml web.xml
  cowl backup server1/root --to repo:/backups/cowl
  cowl backup server1/rootsnapshot --to /backups`,
		Args: atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, a, args) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.to, "to", "", "a directory for plain files, or a repository: the `target`")
	flagOf(f, &o.format, "format", "", "what a plain file is (raw)")
	flagOf(f, &o.shrink, "compress", "", "compress a tar archive (gzip, zstd), or the clusters of a qcow2 image (zlib, zstd) (none)")
	f.StringVar(&o.domain, "domain-xml", "", "copy this libvirt domain `file` beside the images, its disks pointed at them")
	o.room.add(f, "the snapshot, of each volume")
	f.BoolVar(&o.noTrack, "no-track", false, "leave no snapshot by which the next backup knows what has changed")
	f.BoolVar(&o.full, "full", false, "read everything, whatever is known of changes")
	o.hooks.add(f)
	o.access.add(f)
	f.BoolVar(&o.json, "json", false, "print one JSON object instead of a summary")
	return cmd
}

func (o *backupFlags) run(cmd *cobra.Command, a *app, args []string) error {
	if o.to == "" {
		return usage(cmd, "No target: name it with --to.")
	}
	size, err := o.room.value(cmd)
	if err != nil {
		return err
	}
	from, err := a.backupSources(cmd, args)
	if err != nil {
		return err
	}
	t, id, err := targets.Parse(o.to)
	switch {
	case err != nil:
		return usageError(cmd, err)
	case id != "":
		return usage(cmd, "%s is a backup: name the target alone.", o.to)
	case t.IsRepository() && (o.format.given || o.shrink.given):
		return usage(cmd, "--format and --compress are of plain files; a repository keeps images, compressed.")
	case o.domain != "" && (t.IsRepository() || o.format.value == backup.Tar):
		return usage(cmd, "--domain-xml is of images in a directory, raw or qcow2.")
	case o.shrink.given && o.format.value == backup.Raw:
		return usage(cmd, "--compress is of --format tar and qcow2.")
	case !t.IsRepository() && (o.noTrack || o.full):
		return usage(cmd, "--no-track and --full are for repositories; plain files are always read as a whole.")
	case t.IsRepository():
		return o.runRepository(cmd, a, from, t, size)
	}
	return a.withVolumes(cmd.Context(), from, func(volumes []backup.Volumes) error {
		p := a.newProgress()
		r, err := backup.RunAll(cmd.Context(), volumes, backup.Options{
			Dir: o.to, Format: o.format.value, Compress: o.shrink.value, DomainXML: o.domain, SnapshotSize: size, Tool: program(), DryRun: a.test, Reporter: p.reporter(),
			Hooks: o.hooks.hooks(a), NoFreeze: o.hooks.noFreeze,
		})
		p.end()
		return errors.Join(err, sayBackup(o, a, from, t, r))
	})
}

// backupSources reads what is to be backed up: a volume, which may be without
// its group if that is in the environment, several, or whole groups.
func (a *app) backupSources(cmd *cobra.Command, args []string) ([]target, error) {
	if len(args) == 1 && a.Getenv("LVM_VG_NAME") != "" {
		name, err := a.lvArg(args[0])
		return []target{{group: name.VG, names: []string{name.LV}}}, usageError(cmd, err)
	}
	return a.someTargets(cmd, args)
}

// withVolumes runs f with the volumes that the targets mean, whose groups are open.
func (a *app) withVolumes(ctx context.Context, from []target, f func([]backup.Volumes) error) error {
	return a.withGroups(ctx, from, func(groups []openedGroup) error {
		var volumes []backup.Volumes
		for _, g := range groups {
			lvs, err := a.members(g.target, g.status)
			if err != nil {
				return err
			}
			volumes = append(volumes, backup.Volumes{Group: g.Group, LVs: lvs})
		}
		return f(volumes)
	})
}

// repositoryMemory is how much memory a backup into a repository is to get by
// with, whatever the volume's size, unless $GOMEMLIMIT says otherwise. It is the
// collector's aim and not a limit; what kopia holds for packs on their way is the most of it.
const repositoryMemory = 192 << 20

func boundMemory() {
	if debug.SetMemoryLimit(-1) == math.MaxInt64 {
		debug.SetMemoryLimit(repositoryMemory)
	}
}

// runRepository backs up into a repository.
func (o *backupFlags) runRepository(cmd *cobra.Command, a *app, from []target, t targets.Target, size volume.Size) error {
	ctx := cmd.Context()
	boundMemory()
	return a.withRepo(ctx, t, o.access, false, func(store *repo.Repo) error {
		return a.withVolumes(ctx, from, func(volumes []backup.Volumes) error {
			p := a.newProgress()
			r, err := backup.RunRepositoryAll(ctx, volumes, backup.RepositoryOptions{
				Repo: store, SnapshotSize: size, NoTrack: o.noTrack, Full: o.full, Tool: program(), DryRun: a.test, Reporter: p.reporter(),
				Hooks: o.hooks.hooks(a), NoFreeze: o.hooks.noFreeze,
			})
			p.end()
			return errors.Join(err, sayBackup(o, a, from, t, r))
		})
	})
}

// sayBackup prints what a backup did, if it got so far.
func sayBackup[R backup.Reported](o *backupFlags, a *app, from []target, t targets.Target, r *backup.SetReport[R]) error {
	single := len(from) == 1 && len(from[0].names) == 1
	switch {
	case r == nil:
		return nil
	case o.json && single && len(r.Backups) == 1:
		return a.sayJSON(r.Backups[0])
	case o.json:
		return a.sayJSON(r)
	case a.test:
		for _, b := range r.Backups {
			place := b.Place()
			if t.IsRepository() {
				place = t.String()
			}
			a.say("Would back up %s to %s.", b.Volume(), place)
		}
		return nil
	}
	for i, b := range r.Backups {
		a.say("Backed up %s to %s.", b.Volume(), shortPlace(t, b.Place()))
		seconds, rate := b.Took()
		a.say("%s.", strings.Join(summary(b.Sizes(), b.Counted(), seconds, rate), ", "))
		if d := b.Description(); d != "" && i == len(r.Backups)-1 && len(r.Failed) == 0 {
			a.say("The virtual machine that runs from it is described in %s.", d)
		}
		if base := b.Since(); base != "" {
			a.say("What has not changed since is as in %s.", short(base))
		}
	}
	if single {
		a.sayPause(r.Pause)
		return nil
	}
	parts := summary(r.Totals, 0, r.Seconds, r.Rate)
	if r.Instant != "" {
		parts = append(parts, "one instant, "+r.Instant)
	}
	a.say("%d of %d volumes backed up: %s.", len(r.Backups), len(r.Volumes), strings.Join(parts, ", "))
	a.sayPause(r.Pause)
	return nil
}

// sayPause says what was held still, and for how long.
func (a *app) sayPause(p quiet.Pause) {
	if text := p.String(); text != "" {
		a.say("%s", text)
	}
}

// shortPlace is where a backup is, as it can be named.
func shortPlace(t targets.Target, place string) string {
	if t.IsRepository() {
		return t.String() + "::" + short(place)
	}
	return place
}

// summary is the one line at the end of a backup, in parts.
func summary(t backup.Totals, files int64, seconds, rate float64) []string {
	parts := []string{sizeText(t.ReadBytes) + " read"}
	if files > 0 {
		parts[0] = fmt.Sprintf("%d files", files)
	} else {
		parts = append(parts, sizeText(t.ChangedBytes)+" changed")
	}
	parts = append(parts, sizeText(t.StoredBytes)+" stored", "verified")
	if t.StoredBytes > 0 && t.ChangedBytes > 0 {
		parts = append(parts, fmt.Sprintf("ratio %.2f", float64(t.ChangedBytes)/float64(t.StoredBytes)))
	}
	parts = append(parts, took(seconds, rate))
	if t.SnapshotFill != nil {
		parts = append(parts, fmt.Sprintf("snapshot at most %.2f%% full", *t.SnapshotFill))
	}
	return parts
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
