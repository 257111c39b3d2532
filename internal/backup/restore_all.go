package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cowl/internal/backup/repo"
	"cowl/internal/errs"
	"cowl/internal/format/vgtext"
	"cowl/internal/manager"
)

// LatestInstant returns the backups of the latest instant of a whole group: those
// of all volumes that it had then by its metadata. skipped says of later instants
// what they lack.
func LatestInstant(ctx context.Context, r *repo.Repo, vg string) (backups []*repo.Backup, skipped []string, err error) {
	all, err := r.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	seen := map[string]bool{"": true}
	for _, b := range slices.Backward(all) {
		if b.VG != vg || seen[b.Instant] {
			continue
		}
		seen[b.Instant] = true
		rec, err := r.Record(ctx, b)
		if err != nil {
			return nil, nil, err
		}
		found := slices.DeleteFunc(slices.Clone(all), func(o *repo.Backup) bool { return o.VG != vg || o.Instant != b.Instant })
		text, err := r.ReadFile(ctx, b, groupFile)
		if err != nil {
			return nil, nil, err
		}
		group, err := vgtext.Decode(text)
		if err != nil {
			return nil, nil, fmt.Errorf("metadata with backup %s: %w", b.ID, err)
		}
		missing, _ := WholeGroup(&manager.Status{Group: group})
		missing = slices.DeleteFunc(missing, func(lv string) bool {
			return slices.ContainsFunc(found, func(o *repo.Backup) bool { return o.LV == lv })
		})
		if len(missing) == 0 {
			return found, skipped, nil
		}
		skipped = append(skipped, fmt.Sprintf("backups of %s are left out: their instant has none of %s",
			rec.Snapshot.Time.Format(time.RFC3339), strings.Join(missing, ", ")))
	}
	return nil, skipped, errs.WithHint(errs.E(errs.NotFound, "%s has no whole instant of group %s", r.Name(), vg), "cowl list %s shows which backups there are; restore them one by one.", r.Name())
}

// GroupMetadata returns the group's metadata as it was before a backup, for
// LVM2's vgcfgrestore.
func GroupMetadata(ctx context.Context, r *repo.Repo, b *repo.Backup) ([]byte, error) {
	return r.ReadFile(ctx, b, groupFile)
}

// RestoreAll restores backups of several volumes into volumes of their names;
// those that are not there are made. If any cannot be written to, because it is
// in use, too small, or read-only, or if there is no room for those that are to be
// made, none is. An error that comes later leaves the others restored.
//
// o.LV, o.Create, o.Image, o.Repo and o.Backup are set for each.
func RestoreAll(ctx context.Context, g manager.Group, r *repo.Repo, backups []*repo.Backup, o RestoreOptions) ([]*RestoreReport, error) {
	todo, err := planRestores(ctx, g, r, backups, o)
	if err != nil || o.DryRun {
		return nil, err
	}
	var reports []*RestoreReport
	var failed error
	for i, each := range todo {
		if ctx.Err() != nil {
			break
		}
		if o.Begin != nil {
			o.Begin(each.LV, i, len(todo))
		}
		report, err := Restore(ctx, g, each)
		if report != nil {
			reports = append(reports, report)
		}
		failed = errors.Join(failed, err)
	}
	return reports, failed
}

// planRestores sees whether all of it can be done.
func planRestores(ctx context.Context, g manager.Group, r *repo.Repo, backups []*repo.Backup, o RestoreOptions) (todo []RestoreOptions, err error) {
	st, err := g.Status(ctx)
	if err != nil {
		return nil, err
	}
	var refused error
	free := st.Group.Free()
	for _, b := range backups {
		o.LV, o.Image, o.Repo, o.Backup = b.LV, r.Name()+"::"+b.ID, r, b
		o.Create = st.Group.LV(b.LV) == nil
		one := &restore{g: g, o: o, report: &RestoreReport{LV: b.LV}}
		if err := one.openImage(ctx); err != nil {
			return nil, err
		}
		size := one.report.ImageBytes
		one.image.Close()
		if o.Create {
			need := st.Group.ExtentsFor(size)
			if need > free {
				refused = errors.Join(refused, errs.WithHint(errs.E(errs.NoSpace, "there is no room for %s/%s with %d bytes", st.Group.Name, b.LV, size), "Add a physical volume with vgextend."))
			}
			free -= min(free, need)
		} else if err := one.checkTarget(st, 0); err != nil {
			refused = errors.Join(refused, err)
		}
		todo = append(todo, o)
	}
	return todo, refused
}
