package cli

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"cowl/internal/backup"
	"cowl/internal/backup/repo"
	"cowl/internal/backup/repo/targets"
	"cowl/internal/errs"
	"cowl/internal/manager"
)

// runAll is restore --all REPOSITORY VG.
func (o *restoreFlags) runAll(cmd *cobra.Command, a *app, args []string) error {
	if len(args) != 2 || o.create || o.file != "" || o.overwrite {
		return usage(cmd, "--all takes a repository and a group, and neither --create nor --file.")
	}
	t, err := repoArg(cmd, args[0])
	if err != nil {
		return err
	}
	vg, err := groupName(args[1])
	if err != nil {
		return usageError(cmd, err)
	}
	return a.withRepo(cmd.Context(), t, o.access, true, func(r *repo.Repo) error {
		return a.withShared(cmd.Context(), r, "restore of group "+vg, func(ctx context.Context) error {
			backups, skipped, err := backup.LatestInstant(ctx, r, vg)
			for _, text := range skipped {
				a.warn("%s", text)
			}
			switch {
			case err != nil:
				return err
			case o.metadata != "":
				return o.writeMetadata(ctx, a, r, backups[0])
			}
			return o.group(ctx, a, t, r, vg, backups)
		})
	})
}

// writeMetadata writes the group's metadata into a file.
func (o *restoreFlags) writeMetadata(ctx context.Context, a *app, r *repo.Repo, b *repo.Backup) error {
	text, err := backup.GroupMetadata(ctx, r, b)
	if err != nil {
		return err
	}
	if a.test {
		a.say("Would write the metadata of group %s into %s.", b.VG, o.metadata)
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
	a.say("Metadata of group %s written into %s.", b.VG, o.metadata)
	return nil
}

func (o *restoreFlags) group(ctx context.Context, a *app, t targets.Target, r *repo.Repo, vg string, backups []*repo.Backup) error {
	return a.withGroup(ctx, vg, func(g manager.Group, _ *manager.Status) error {
		p := a.newProgress()
		reports, err := backup.RestoreAll(ctx, g, r, backups, backup.RestoreOptions{InPlace: o.inPlace, Force: o.force, DryRun: a.test, Reporter: p.reporter()})
		p.end()
		if a.test && err == nil {
			for _, b := range backups {
				a.say("Would restore %s::%s to %s.", t, short(b.ID), fullName(vg, b.LV))
			}
			return nil
		}
		if o.json {
			return errors.Join(a.sayJSON(map[string]any{"vg": vg, "instant": backups[0].Instant, "restored": reports}), err)
		}
		for _, x := range reports {
			a.say("Restored %s to %s: %s read back and equal, %s.", x.Image, fullName(x.VG, x.LV), sizeText(x.ImageBytes), took(x.Seconds, x.Rate))
		}
		if err == nil {
			a.say("%d volumes are as they were at instant %s.", len(reports), backups[0].Instant)
		}
		return err
	})
}
