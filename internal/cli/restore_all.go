package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"cowl/internal/backup"
	"cowl/internal/backup/repo"
	"cowl/internal/backup/repo/targets"
	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// runAll is restore --all TARGET VG.
func (o *restoreFlags) runAll(cmd *cobra.Command, a *app, args []string) error {
	if len(args) != 2 || o.create || o.file != "" || o.overwrite {
		return usage(cmd, "--all takes a target and a group, and neither --create nor --file.")
	}
	t, name, err := targets.Parse(args[0])
	switch {
	case err != nil:
		return usageError(cmd, err)
	case name != "":
		return usage(cmd, "%s is a backup: name the target alone.", args[0])
	case o.metadata != "" && len(o.pvs) > 0:
		return usage(cmd, "--metadata makes no group: give --pv without it.")
	}
	vg, err := groupName(args[1])
	if err != nil {
		return usageError(cmd, err)
	}
	ctx := cmd.Context()
	if !t.IsRepository() {
		shelf, err := backup.DirShelf(t.Path)
		if err != nil {
			return err
		}
		return o.fromShelf(ctx, a, shelf, vg)
	}
	return a.withRepo(ctx, t, o.access, true, func(r *repo.Repo) error {
		return a.withShared(ctx, r, "restore of group "+vg, func(ctx context.Context) error {
			shelf, err := backup.RepositoryShelf(ctx, r)
			if err != nil {
				return err
			}
			return o.fromShelf(ctx, a, shelf, vg)
		})
	})
}

// wholeGroup is a group that is to be restored.
type wholeGroup struct {
	vg      string
	was     *volume.Group
	backups []*backup.Stored
	beside  []*backup.Beside // of each
	made    bool             // the group was made for it
}

func (o *restoreFlags) fromShelf(ctx context.Context, a *app, shelf *backup.Shelf, vg string) error {
	backups, was, skipped, err := shelf.LatestInstant(ctx, vg)
	for _, text := range append(shelf.Notes, skipped...) {
		a.warn("%s", text)
	}
	if err != nil {
		return err
	}
	w := &wholeGroup{vg: vg, was: was, backups: backups}
	for _, b := range backups {
		beside, err := shelf.Beside(ctx, b)
		if err != nil {
			return err
		}
		w.beside = append(w.beside, beside)
	}
	switch {
	case o.metadata != "":
		return o.writeMetadata(a, vg, w.beside[0].Metadata)
	case len(o.pvs) > 0:
		return o.remake(ctx, a, w)
	}
	return o.group(ctx, a, w)
}

// remake makes the group of new physical volumes first. If nothing could then be
// restored at all, the group goes again.
func (o *restoreFlags) remake(ctx context.Context, a *app, w *wholeGroup) error {
	for _, text := range backup.Lost(w.was) {
		a.warn("%s", text)
	}
	layout := newLayoutFlags()
	spec := backup.GroupLike(w.was)
	if a.test {
		a.say("Would make volume group %s of %s.", w.vg, strings.Join(o.pvs, ", "))
		o.sayWould(a, w)
		return nil
	}
	r, err := a.host().CreateGroup(ctx, spec, o.pvs, a.pvCreate(&layout))
	if !o.json {
		a.sayResult(r)
	}
	if errs.Is(err, errs.Exists) {
		return errs.WithHint(err, "Leave --pv out to restore into the group that is there.")
	}
	if err != nil {
		return err
	}
	w.made = true
	if !o.json {
		a.say("Volume group %q successfully created", w.vg)
	}
	err = o.group(ctx, a, w)
	if !backup.NothingWritten(err) {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	return errors.Join(err, a.withGroup(ctx, w.vg, func(g manager.Group, _ *manager.Status) error {
		_, err := g.RemoveGroup(ctx)
		if err == nil {
			a.note("Volume group %q was removed again.", w.vg)
		}
		return err
	}))
}

// writeMetadata writes the group's metadata into a file.
func (o *restoreFlags) writeMetadata(a *app, vg string, text []byte) error {
	if a.test {
		a.say("Would write the metadata of group %s into %s.", vg, o.metadata)
		return nil
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if o.force {
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(o.metadata, flags, 0o600)
	if errors.Is(err, os.ErrExist) {
		return errs.WithHint(errs.E(errs.Exists, "%s exists already", o.metadata), "--force replaces it.")
	}
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	a.say("Metadata of group %s written into %s.", vg, o.metadata)
	return nil
}

func (o *restoreFlags) group(ctx context.Context, a *app, w *wholeGroup) error {
	return a.withGroup(ctx, w.vg, func(g manager.Group, _ *manager.Status) error {
		p := a.newProgress()
		reports, err := backup.RestoreAll(ctx, g, w.was, w.backups, backup.RestoreOptions{InPlace: o.inPlace, Force: o.force, DryRun: a.test, Reporter: p.reporter()})
		p.end()
		if a.test && err == nil {
			o.sayWould(a, w)
			return nil
		}
		instant := w.backups[0].Instant
		if o.json {
			return errors.Join(a.sayJSON(map[string]any{"vg": w.vg, "instant": instant, "group_created": w.made, "restored": reports, "fstab": w.fstab()}), err)
		}
		for _, x := range reports {
			a.say("Restored %s to %s: %s read back and equal, %s.", x.Image, fullName(x.VG, x.LV), sizeText(x.ImageBytes), took(x.Seconds, x.Rate))
		}
		if err == nil {
			a.say("%d volumes are as they were at instant %s.", len(reports), instant)
			o.sayFstab(a, w)
		}
		return err
	})
}

func (o *restoreFlags) sayWould(a *app, w *wholeGroup) {
	for _, b := range w.backups {
		a.say("Would restore %s to %s.", b.ShortImage(), fullName(w.vg, b.LV))
	}
}

// fstab has the lines that mounted the volumes.
func (w *wholeGroup) fstab() []string {
	out := []string{}
	for _, b := range w.beside {
		out = append(out, b.Fstab...)
	}
	return out
}

// sayFstab prints them for a machine that has to learn them anew.
func (o *restoreFlags) sayFstab(a *app, w *wholeGroup) {
	lines := w.fstab()
	if len(lines) == 0 {
		return
	}
	a.say("They were mounted by these lines of /etc/fstab:")
	for _, l := range lines {
		fmt.Fprintln(a.Stdout, printable(l))
	}
}
