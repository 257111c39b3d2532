package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cowl/internal/backup/repo"
	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/format/vgtext"
	"cowl/internal/manager"
	"cowl/internal/quiet"
	"cowl/internal/volume"
)

// RepositoryOptions say what to back up into a repository, and how.
type RepositoryOptions struct {
	LV           string // within the group
	Repo         *repo.Repo
	SnapshotSize volume.Size // as Options'
	Tool         string
	// NoTrack leaves no snapshot behind by which the next backup would know what
	// has changed, and leaves alone those that others left.
	NoTrack bool
	// Full reads everything, whatever is known of changes.
	Full     bool
	DryRun   bool
	Hooks    quiet.Hooks
	NoFreeze bool // as Options'
	Reporter

	every time.Duration // between two looks at the snapshot
}

// RepositoryReport is what a backup into a repository did. Sizes are in bytes.
type RepositoryReport struct {
	VG           string `json:"vg"`
	LV           string `json:"lv"`
	Snapshot     string `json:"snapshot"`
	SnapshotKept bool   `json:"snapshot_kept"` // for the next backup, or because it was there before
	Repository   string `json:"repository"`
	Backup       string `json:"backup"`            // its ID
	Instant      string `json:"instant,omitempty"` // as repo.Instant.ID
	// Base is the backup that this one was made from, "" where everything was
	// read; then FullBecause says why.
	Base        string `json:"base,omitempty"`
	FullBecause string `json:"full_because,omitempty"`
	VolumeBytes int64  `json:"volume_bytes"`
	repo.Stats
	// Verified: every blob was read back, or confirmed by the store.
	Verified     bool     `json:"verified"`
	Seconds      float64  `json:"seconds"`
	Rate         float64  `json:"bytes_per_second"` // VolumeBytes over Seconds
	SnapshotFill *float64 `json:"snapshot_fill_percent"`
	quiet.Pause
	Notes []string `json:"notes,omitempty"`
}

// storing is one backup into a repository on its way.
type storing struct {
	g   manager.Group
	o   RepositoryOptions
	src *source
	rec *repo.Record

	base     *base    // nil if everything is read
	replaced []string // the tracking snapshots whose place ours takes

	report *RepositoryReport
}

// RunRepository backs a volume up into a repository. What it promises is what
// Run does: either there is a backup, and everything that it consists of was
// proved, or there is none; a report beside an error means that all that
// failed was removing our own snapshot.
func RunRepository(ctx context.Context, g manager.Group, o RepositoryOptions) (*RepositoryReport, error) {
	return alone(ctx, repositorySet([]Volumes{{g, []string{o.LV}}}, o))
}

// RunRepositoryAll is RunAll into a repository.
func RunRepositoryAll(ctx context.Context, volumes []Volumes, o RepositoryOptions) (*SetReport[*RepositoryReport], error) {
	return repositorySet(volumes, o).run(ctx)
}

// repositorySet makes the set of backups of volumes, which share a lock.
func repositorySet(volumes []Volumes, o RepositoryOptions) *set[*RepositoryReport] {
	s := &set[*RepositoryReport]{common: common{
		target: o.Repo.Name(), size: o.SnapshotSize, dryRun: o.DryRun, hooks: o.Hooks, noFreeze: o.NoFreeze, Reporter: o.Reporter,
	}}
	for _, v := range volumes {
		for _, lv := range v.LVs {
			o.LV = lv
			s.members = append(s.members, &storing{g: v.Group, o: o})
		}
	}
	s.lock = func(ctx context.Context, purpose string) (context.Context, *repo.Lock, error) {
		return o.Repo.Lock(ctx, repo.Shared, purpose, "")
	}
	return s
}

// source implements member.
func (s *storing) source() *source { return s.src }

// wants implements member.
func (s *storing) wants() (readOnly bool) { return true }

// plan implements member.
func (s *storing) plan() *RepositoryReport { return s.report }

// abandon implements member: what was stored so far is used by the next.
func (s *storing) abandon() {}

// run implements member.
func (s *storing) run(ctx context.Context, m moment) (r *RepositoryReport, left, err error) {
	started := time.Now()
	left, err = s.read(ctx, m)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("backup of %s/%s %w (%v): what was stored so far is used by the next one", s.src.vg.Name, s.src.lv.Name, ErrInterrupted, context.Cause(ctx))
		}
		return nil, left, err
	}
	s.report.Seconds = (m.took + time.Since(started)).Seconds()
	s.report.Rate = float64(s.report.VolumeBytes) / max(s.report.Seconds, 1e-9)
	return s.report, left, nil
}

// prepare does what can fail before there is a snapshot.
func (s *storing) prepare(ctx context.Context, started time.Time) error {
	if s.o.every == 0 {
		s.o.every = time.Second
	}
	src, st, err := findSource(ctx, s.g, s.o.LV)
	if err != nil {
		return err
	}
	s.src = src
	src.pool(s.o.SnapshotSize)
	s.report = &RepositoryReport{
		VG: src.vg.Name, LV: src.lv.Name, Snapshot: src.snapshot, SnapshotKept: !src.own, Repository: s.o.Repo.Name(),
	}
	s.rec = &repo.Record{
		Tool: s.o.Tool, Started: started.UTC(),
		Source: repo.Origin{VG: src.vg.Name, VGUUID: src.vg.ID.String(), LV: src.lv.Name, LVUUID: src.lv.ID.String(), Seqno: src.vg.Seqno},
		Image:  repo.ImageInfo{File: volume.DMName(src.vg.Name, src.lv.Name) + "." + string(Raw)},
	}
	src.tracks = s.tracks()
	if err := s.findBase(ctx); err != nil {
		return err
	}
	for _, text := range src.leftovers("", s.replaced...) {
		s.note("%s", text)
	}
	if rt := st.LVs[src.snapshot]; !src.own && rt.Opens > 0 && !src.readOnly {
		s.note("%s is writable and in use: what is written to it meanwhile may or may not be in the image", src.id())
	}
	return nil
}

// note is for the person who watches, and for the report.
func (s *storing) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.report.Notes = append(s.report.Notes, text)
	s.o.note(text)
}

// read stores the snapshot. left is why our own could not be removed.
func (s *storing) read(ctx context.Context, m moment) (left, err error) {
	defer func() { left = s.src.release(ctx) }()
	s.report.Notes, s.report.Pause = append(s.report.Notes, m.notes...), m.pause
	if s.rec.Instant = m.instant; m.instant != nil {
		s.report.Instant = m.instant.ID
	}
	dev, err := s.g.Open(ctx, s.src.snapshot, true)
	if err != nil {
		return nil, err
	}
	err = errors.Join(s.store(ctx, dev, m.lock), dev.Close())
	if err == nil && s.src.tracks {
		s.keep(ctx)
	}
	return nil, err
}

// store stores what is in the open snapshot.
func (s *storing) store(ctx context.Context, dev block.Device, lock *repo.Lock) error {
	s.report.VolumeBytes, s.rec.Source.Bytes = dev.Size(), dev.Size()
	if err := s.describe(ctx, dev); err != nil {
		return err
	}
	var notes []string // of the watcher, until it has ended
	watched, stop := s.src.watch(ctx, s.o.every, func(text string) {
		notes = append(notes, text)
		s.o.note(text)
	})
	var cow *manager.CowStatus
	b, err := s.storeFrom(watched, dev, repo.StoreOptions{
		Progress: s.o.absolute(Reading),
		// An overflow explains better what a read says, and must be known before
		// there is a backup.
		BeforeCommit: func(context.Context) (err error) {
			if cow, err = s.src.finalCheck(ctx); err != nil {
				return err
			}
			return lock.Check(ctx)
		},
	})
	highest := stop()
	s.report.Notes = append(s.report.Notes, notes...)
	if err != nil {
		return s.explain(ctx, err)
	}
	s.report.SnapshotFill = highestFill(highest, cow)
	s.report.Backup, s.report.Base, s.report.Stats, s.report.Verified = b.ID, b.Base, s.rec.Stats, true
	return nil
}

// storeFrom stores what has changed since the base, or everything: also where
// the base turns out to be damaged.
func (s *storing) storeFrom(ctx context.Context, dev block.Device, o repo.StoreOptions) (*repo.Backup, error) {
	src, err := s.from(ctx, dev)
	if err != nil {
		return nil, err
	}
	b, err := s.o.Repo.Store(ctx, src, s.rec, s.files(), o)
	if src.Base == nil || !errs.Is(err, errs.Corrupt) || ctx.Err() != nil {
		return b, err
	}
	s.readAll("%v", err)
	if src, err = s.from(ctx, dev); err != nil {
		return nil, err
	}
	return s.o.Repo.Store(ctx, src, s.rec, s.files(), o)
}

// explain says of a backup that failed whether the snapshot was lost.
func (s *storing) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	if cow, checkErr := s.src.finalCheck(ctx); checkErr != nil && cow != nil {
		return checkErr
	}
	return err
}

// describe notes down what will be read.
func (s *storing) describe(ctx context.Context, dev block.Device) error {
	st, err := s.g.Status(ctx)
	if err != nil {
		return err
	}
	lv, err := st.Group.FindLV(s.src.snapshot)
	if err != nil {
		return err
	}
	s.rec.Snapshot = repo.Snapshot{LV: lv.Name, LVUUID: lv.ID.String(), Time: time.Unix(lv.CreationTime, 0).UTC(), Own: s.src.own, Kept: s.src.tracks}
	s.rec.Source.Fstab = fstabOf(st, s.src.lv.Name)
	s.rec.Source.FileSystem, err = manager.Signature(dev)
	return err
}

// groupFile is the group's metadata in the form of LVM2's backup files, for
// vgcfgrestore.
const groupFile = "vgcfgbackup"

// files are kept beside the image.
func (s *storing) files() []repo.File {
	return []repo.File{{Name: groupFile, Data: s.src.metadata(s.o.Tool, s.rec.Started)}}
}

// metadata is the group's when the backup began.
func (s *source) metadata(tool string, started time.Time) []byte {
	return vgtext.EncodeBackup(s.vg, vgtext.Signature{
		Description: "Kept with a backup of " + s.vg.Name + "/" + s.lv.Name, Program: tool, Time: started, Host: hostname(),
	})
}
