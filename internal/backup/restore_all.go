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
	"cowl/internal/volume"
)

// Stored is a backup of a volume, in either kind of target.
type Stored struct {
	Image   string // as it is called; of plain files, the path
	VG, LV  string
	Time    time.Time // the instant that it shows
	Instant string
	// Repo and Backup are of a repository.
	Repo   *repo.Repo
	Backup *repo.Backup
}

// ShortImage is how the backup is called, in short.
func (b *Stored) ShortImage() string {
	if b.Backup == nil || len(b.Backup.ID) < 12 {
		return b.Image
	}
	return strings.TrimSuffix(b.Image, b.Backup.ID[12:])
}

// Beside is what a backup keeps beside the volume, for a machine that is lost.
type Beside struct {
	Metadata []byte // of the group, for LVM2's vgcfgrestore
	Fstab    []string
}

// Shelf is where whole groups are restored from.
type Shelf struct {
	Name string
	// Notes are about backups that cannot be used.
	Notes []string
	all   []*Stored // the oldest first
	// beside reads what is kept with a backup.
	beside func(context.Context, *Stored) (*Beside, error)
}

// RepositoryShelf returns the backups of a repository.
func RepositoryShelf(ctx context.Context, r *repo.Repo) (*Shelf, error) {
	all, err := r.List(ctx)
	if err != nil {
		return nil, err
	}
	s := &Shelf{Name: r.Name(), beside: besideStored}
	for _, b := range all {
		s.all = append(s.all, &Stored{Image: r.Name() + "::" + b.ID, VG: b.VG, LV: b.LV, Time: b.Time, Instant: b.Instant, Repo: r, Backup: b})
	}
	return s, nil
}

func besideStored(ctx context.Context, b *Stored) (*Beside, error) {
	rec, err := b.Repo.Record(ctx, b.Backup)
	if err != nil {
		return nil, err
	}
	text, err := b.Repo.ReadFile(ctx, b.Backup, groupFile)
	return &Beside{Metadata: text, Fstab: rec.Source.Fstab}, err
}

// DirShelf returns the images of volumes in a directory. Archives hold files, of
// which no volume can be made.
func DirShelf(dir string) (*Shelf, error) {
	all, err := ListDir(dir)
	if err != nil {
		return nil, err
	}
	s := &Shelf{Name: dir, beside: besideImage}
	for _, l := range all {
		switch {
		case l.Fault != "":
			s.Notes = append(s.Notes, fmt.Sprintf("%s is left out: %s", l.Image, l.Fault))
		case l.Format != Tar:
			s.all = append(s.all, &Stored{Image: l.Image, VG: l.VG, LV: l.LV, Time: l.Time, Instant: l.Instant})
		}
	}
	return s, nil
}

func besideImage(_ context.Context, b *Stored) (*Beside, error) {
	m, _, err := readManifest(b.Image)
	if err != nil {
		return nil, err
	}
	if m.Source.Group == "" {
		return nil, errs.WithHint(errs.E(errs.Unsupported, "image %s was made by a cowl that did not keep the group's metadata (%s)", b.Image, m.Tool), "Restore the images one by one.")
	}
	return &Beside{Metadata: []byte(m.Source.Group), Fstab: m.Source.Fstab}, nil
}

// Beside reads what is kept with a backup.
func (s *Shelf) Beside(ctx context.Context, b *Stored) (*Beside, error) { return s.beside(ctx, b) }

// LatestInstant returns the backups of the latest instant of a whole group: those
// of all volumes that it had then by its metadata, which is returned too. skipped says of later instants
// what they lack.
func (s *Shelf) LatestInstant(ctx context.Context, vg string) (backups []*Stored, group *volume.Group, skipped []string, err error) {
	seen := map[string]bool{"": true}
	for _, b := range slices.Backward(s.all) {
		if b.VG != vg || seen[b.Instant] {
			continue
		}
		seen[b.Instant] = true
		beside, err := s.beside(ctx, b)
		if err != nil {
			return nil, nil, nil, err
		}
		group, err := vgtext.Decode(beside.Metadata)
		if err == nil && group.Name != vg {
			err = errs.E(errs.Corrupt, "it is of group %s", group.Name)
		}
		if err != nil {
			return nil, nil, nil, fmt.Errorf("metadata with backup %s: %w", b.Image, err)
		}
		found := latestOfEach(s.all, b)
		missing, _ := WholeGroup(&manager.Status{Group: group})
		missing = slices.DeleteFunc(missing, func(lv string) bool {
			return slices.ContainsFunc(found, func(o *Stored) bool { return o.LV == lv })
		})
		if len(missing) == 0 {
			return found, group, skipped, nil
		}
		skipped = append(skipped, fmt.Sprintf("backups of %s are left out: their instant has none of %s",
			b.Time.Format(time.RFC3339), strings.Join(missing, ", ")))
	}
	return nil, nil, skipped, errs.WithHint(errs.E(errs.NotFound, "%s has no whole instant of group %s", s.Name, vg), "cowl list %s shows which backups there are; restore them one by one.", s.Name)
}

// latestOfEach returns the backups of an instant, of each volume one: a snapshot may
// have been backed up more than once, and is the same each time.
func latestOfEach(all []*Stored, of *Stored) (out []*Stored) {
	for _, b := range all {
		if b.VG != of.VG || b.Instant != of.Instant {
			continue
		}
		out = slices.DeleteFunc(out, func(o *Stored) bool { return o.LV == b.LV })
		out = append(out, b)
	}
	return out
}

// GroupLike asks for a group as it was: its name, extent size, policy and tags.
func GroupLike(g *volume.Group) volume.GroupSpec {
	return volume.GroupSpec{Name: g.Name, ExtentSize: g.ExtentSize, MaxLV: g.MaxLV, Allocation: g.Allocation, Tags: g.Tags}
}

// refused is the error of a RestoreAll that wrote nothing.
type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

// NothingWritten tells whether a RestoreAll was refused before it wrote anything.
func NothingWritten(err error) bool {
	var r refused
	return errors.As(err, &r)
}

// RestoreAll restores backups of several volumes into volumes of their names;
// those that are not there are made, with the permissions and tags that they had in was. If any
// cannot be written to, because it is in use, too small, or read-only, or if there is no room for those that are to be
// made, none is. An error that comes later leaves the others restored.
//
// o.LV, o.Create, o.Image, o.Repo and o.Backup are set for each.
func RestoreAll(ctx context.Context, g manager.Group, was *volume.Group, backups []*Stored, o RestoreOptions) ([]*RestoreReport, error) {
	todo, err := planRestores(ctx, g, backups, o)
	if err != nil {
		return nil, refused{err}
	}
	if o.DryRun {
		return nil, nil
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
		if err == nil && each.Create {
			err = makeAlike(ctx, g, was.LV(each.LV), report, o.note)
		}
		failed = errors.Join(failed, err)
	}
	return reports, failed
}

// makeAlike gives a volume that was made what its predecessor had beside its content.
func makeAlike(ctx context.Context, g manager.Group, was *volume.LV, report *RestoreReport, note func(string)) error {
	if was == nil {
		return nil
	}
	if len(was.Tags) > 0 {
		if _, err := g.ChangeTags(ctx, was.Name, was.Tags, nil); err != nil {
			return fmt.Errorf("tags of %s: %w", was.Name, err)
		}
	}
	if was.ReadOnly() {
		if _, err := g.SetReadOnly(ctx, was.Name, true); err != nil {
			return fmt.Errorf("permission of %s: %w", was.Name, err)
		}
	}
	if slices.ContainsFunc(was.Segments, func(s volume.Segment) bool { return len(s.Stripes) > 1 }) {
		text := fmt.Sprintf("%s/%s was striped, and is linear now", report.VG, was.Name)
		report.Notes = append(report.Notes, text)
		note(text)
	}
	return nil
}

// planRestores sees whether all of it can be done.
func planRestores(ctx context.Context, g manager.Group, backups []*Stored, o RestoreOptions) (todo []RestoreOptions, err error) {
	st, err := g.Status(ctx)
	if err != nil {
		return nil, err
	}
	var denied error
	free := st.Group.Free()
	for _, b := range backups {
		o.LV, o.Image, o.Repo, o.Backup = b.LV, b.Image, b.Repo, b.Backup
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
				denied = errors.Join(denied, errs.WithHint(errs.E(errs.NoSpace, "there is no room for %s/%s with %d bytes", st.Group.Name, b.LV, size), "Add a physical volume with vgextend."))
			}
			free -= min(free, need)
		} else if err := one.checkTarget(st, 0); err != nil {
			denied = errors.Join(denied, err)
		}
		todo = append(todo, o)
	}
	return todo, denied
}

// Lost says what of a group is not in backups of its volumes.
func Lost(g *volume.Group) (out []string) {
	_, out = WholeGroup(&manager.Status{Group: g})
	for _, lv := range g.Visible() {
		if s, is := g.SnapshotOf(lv); is && !slices.Contains(lv.Tags, Tag) {
			out = append(out, fmt.Sprintf("%s/%s was a snapshot of %s, and does not come back", g.Name, lv.Name, s.Origin.Name))
		}
	}
	return out
}
