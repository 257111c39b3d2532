package backup

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"cowl/internal/backup/repo"
	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// A backup into a repository leaves its snapshot behind. That knows what
// changes on the volume from then on, so that the next backup reads only that,
// takes everything else from the one before, and leaves its own snapshot in the place of
// the old. Such a snapshot is a tracking snapshot.
//
// The next backup takes its own snapshot first, and then asks the old one what
// has changed: that is all that differs between the two, or more. It
// builds on a backup only if it is sure that the old snapshot is that
// backup's, and has been told of every write since; otherwise it reads everything and
// says why. What it checks:
//
//   - the backup is the latest in the repository that left a snapshot: were the
//     metadata restored from a copy, an older snapshot could be there again,
//     and a newer one be missing;
//   - UUIDs of group, volume and snapshot, and the snapshot's time, are those of
//     the backup's record; the sequence number of the metadata has not gone back;
//   - the snapshot is valid after it was asked, and its size is the image's;
//   - of what is said not to have changed, some segments are read and
//     compared with the image.
//
// A crash is no gap, since stores survive it; a restore into the volume, a merge,
// and use by the kernel are none, since they copy out as any write does.

// TrackingTag begins a tag of tracking snapshots:
// "cowl.tracking=REPOSITORY:BACKUP", the IDs of both.
const TrackingTag = "cowl.tracking="

const (
	// sampledSegments is how many unchanged segments are compared, in some 50 ms.
	sampledSegments = 32

	// A tracking snapshot lives until the next backup, so it begins small, with
	// room for a tenth of the volume, and grows as the configuration says.
	trackedPart  = 10 // percent
	trackedLeast = 16 << 20
)

// base is the earlier backup that the next one is made from.
type base struct {
	snapshot string // the tracking snapshot
	backup   *repo.Backup
	record   *repo.Record
}

// tracks tells whether the backup leaves its snapshot behind.
func (s *storing) tracks() bool { return s.src.own && !s.src.pooled && !s.o.NoTrack }

// tracking returns the names of a volume's tracking snapshots of a repository.
func tracking(vg *volume.Group, lv *volume.LV, repository string) (names []string) {
	for _, snap := range vg.SnapshotsOf(lv) {
		if !snap.Segment.Merging && slices.ContainsFunc(snap.Cow.Tags, func(t string) bool {
			return strings.HasPrefix(t, TrackingTag+repository+":")
		}) {
			names = append(names, snap.Cow.Name)
		}
	}
	return names
}

// trackedTags are those of a snapshot that is to be left behind. It never
// harms the volume: when there is no room left for it, it is lost, and the next
// backup reads everything.
func trackedTags() []string {
	return []string{volume.OnFullTag(volume.OnFullInvalidate)}
}

// trackedSize is how large a tracking snapshot of a volume is at first, one of
// several; zero, which leaves it to the group, where space is short.
func trackedSize(vg *volume.Group, lv *volume.LV, several int) volume.Size {
	bytes := vg.LVSize(lv).Bytes()
	most := vg.ExtentsFor(volume.CowMax(bytes, volume.DefaultChunk))
	n := min(most, vg.ExtentsFor(max(trackedLeast, volume.CowMax(bytes/100*trackedPart, volume.DefaultChunk))))
	if n > vg.Spare()/2/volume.Extents(several) {
		return volume.Size{}
	}
	return volume.Size{Bytes: vg.ExtentBytes(n)}
}

// findBase looks for the backup that this one can be made from, before there is
// a snapshot of our own.
func (s *storing) findBase(ctx context.Context) error {
	if !s.src.own {
		return nil
	}
	s.replaced = tracking(s.src.vg, s.src.lv, s.o.Repo.ID())
	if s.src.pooled {
		s.report.FullBecause = "what changes in a thin pool is not known; with -L the snapshot has a store that knows it"
		return nil
	}
	if s.o.Full {
		s.report.FullBecause = "that was asked for"
		return nil
	}
	all, err := s.o.Repo.ListVolume(ctx, s.src.lv.ID.String())
	if err != nil {
		return err
	}
	if len(all) == 0 {
		s.report.FullBecause = "there is no earlier backup"
		return nil
	}
	var latest *repo.Backup
	for _, b := range slices.Backward(all) {
		if b.Kept {
			latest = b
			break
		}
	}
	if latest == nil {
		if s.report.FullBecause = "no earlier backup left a tracking snapshot"; len(s.replaced) > 0 {
			s.readAll("the backup that %s was left by is no longer in the repository", s.replaced[0])
		}
		return nil
	}
	return s.tryBase(ctx, latest)
}

// tryBase takes a backup as the base if its tracking snapshot is there.
func (s *storing) tryBase(ctx context.Context, b *repo.Backup) error {
	var snap *volume.LV
	for _, candidate := range s.src.vg.SnapshotsOf(s.src.lv) {
		if candidate.Cow.ID.String() == b.SnapshotUUID && !candidate.Segment.Merging {
			snap = candidate.Cow
		}
	}
	if snap == nil {
		s.readAll("the tracking snapshot of backup %s is gone", short(b.ID))
		return nil
	}
	rec, err := s.o.Repo.Record(ctx, b)
	switch {
	case errs.Is(err, errs.Corrupt), errs.Is(err, errs.NotFound):
		s.readAll("%v", err)
		return nil
	case err != nil:
		return err
	case rec.Source.VGUUID != s.src.vg.ID.String() || rec.Source.LVUUID != s.src.lv.ID.String() ||
		rec.Snapshot.LVUUID != b.SnapshotUUID || rec.Snapshot.Time.Unix() != snap.CreationTime:
		s.readAll("snapshot %s is not that of backup %s", snap.Name, short(b.ID))
		return nil
	case rec.Source.Seqno > s.src.vg.Seqno:
		s.readAll("the group's metadata has gone back since backup %s, from number %d to %d", short(b.ID), rec.Source.Seqno, s.src.vg.Seqno)
		return nil
	}
	s.base = &base{snapshot: snap.Name, backup: b, record: rec}
	if !slices.Contains(s.replaced, snap.Name) { // it was never tagged: the backup was killed right behind its end
		s.replaced = append(s.replaced, snap.Name)
	}
	return nil
}

// readAll gives up the base, and says why.
func (s *storing) readAll(format string, args ...any) {
	s.base = nil
	s.report.FullBecause = fmt.Sprintf(format, args...)
	s.note("%s/%s is read as a whole: %s", s.src.vg.Name, s.src.lv.Name, s.report.FullBecause)
}

// from returns what is to be stored of our own snapshot, which is open: all of it,
// or what has changed since the base.
func (s *storing) from(ctx context.Context, dev block.Device) (repo.Source, error) {
	all := repo.Source{Dev: dev}
	s.rec.Base = nil
	if s.base == nil {
		return all, nil
	}
	changes, err := s.g.Changed(ctx, s.base.snapshot)
	if err == nil {
		err = s.base.fits(changes, dev.Size())
	}
	if err != nil {
		return all, s.orAll(ctx, err)
	}
	image, _, err := s.o.Repo.Image(ctx, s.base.backup)
	if err != nil {
		return all, s.orAll(ctx, err)
	}
	layout := repo.NewLayout(dev.Size(), image.Layout().Segment)
	changed := repo.NewSet(layout.Segments())
	for r := range changes.All() {
		changed.AddRange(layout, r.Off, r.Len)
	}
	sampled, err := image.Sample(ctx, dev, changed, sampledSegments)
	if err != nil {
		return all, s.orAll(ctx, err)
	}
	s.rec.Base = &repo.Base{Backup: s.base.backup.ID, SnapshotUUID: s.base.backup.SnapshotUUID, Sampled: sampled}
	return repo.Source{Dev: dev, Base: image, Changed: changed}, nil
}

// orAll has everything read because of an error, unless it is that of a backup
// that was cancelled.
func (s *storing) orAll(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.readAll("%v", err)
	return nil
}

// fits checks that changes are those since the base, of a volume of size bytes.
func (b *base) fits(c *manager.Changes, size int64) error {
	switch {
	case c.VGUUID != b.record.Source.VGUUID, c.OriginUUID != b.record.Source.LVUUID,
		c.SnapshotUUID != b.record.Snapshot.LVUUID, !c.Time.Equal(b.record.Snapshot.Time), c.Seqno < b.record.Source.Seqno:
		return errs.E(errs.Conflict, "snapshot %s is not that of backup %s any more", b.snapshot, short(b.backup.ID))
	case c.Bytes != b.record.Source.Bytes, c.Bytes > size:
		return errs.E(errs.Conflict, "snapshot %s has %d bytes, the image of backup %s %d, the volume %d", b.snapshot, c.Bytes, short(b.backup.ID), b.record.Source.Bytes, size)
	}
	return nil
}

// keep leaves our snapshot behind for the next backup, and removes those whose
// place it takes. The backup is on the list: what fails here costs the next one
// time, and nobody data.
func (s *storing) keep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	tag := TrackingTag + s.o.Repo.ID() + ":" + s.report.Backup
	if _, err := s.g.ChangeTags(ctx, s.src.snapshot, []string{tag}, []string{Tag, s.src.owner}); err != nil {
		s.note("snapshot %s cannot be kept, so that the next backup reads everything: %v", s.src.id(), err)
		return // it is removed as one that is not to be kept
	}
	s.src.made = false
	s.report.SnapshotKept = true
	for _, name := range s.replaced {
		if err := s.src.removeSnapshot(ctx, name); err != nil && !errs.Is(err, errs.NotFound) {
			full := s.src.vg.Name + "/" + name
			s.note("tracking snapshot %s of an earlier backup was left behind (%v); remove it with: cowl lvremove -y %s", full, err, full)
		}
	}
}

// short is an ID as people see it.
func short(id string) string { return id[:min(len(id), 12)] }
