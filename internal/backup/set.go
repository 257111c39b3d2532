package backup

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"cowl/internal/backup/repo"
	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/quiet"
	"cowl/internal/volume"
)

// InstantTag begins a tag of snapshots that were taken together:
// "cowl.instant=ID". Backups of them share the instant.
const InstantTag = "cowl.instant="

// NewInstant makes the ID of an instant that no other has.
func NewInstant() string { return fmt.Sprintf("%016x", rand.Uint64()) }

// Volumes are volumes of one group.
type Volumes struct {
	Group manager.Group
	LVs   []string
}

// SetReport is what a backup of several volumes did. R is the report of one.
type SetReport[R Reported] struct {
	VG      string   `json:"vg,omitempty"` // "" if there are several
	Target  string   `json:"target"`
	Instant string   `json:"instant,omitempty"`
	Volumes []string `json:"volumes"` // that were to be backed up; with their group if VG is ""
	// Backups are those that were made, in the order of Volumes; Failed says of
	// the others why not.
	Backups []R       `json:"backups"`
	Failed  []Failure `json:"failed,omitempty"`
	Totals
	quiet.Pause
	Seconds float64 `json:"seconds"`
	Rate    float64 `json:"bytes_per_second"` // VolumeBytes over Seconds
	// Notes are about all of it, as far as they are not in Backups.
	Notes []string `json:"notes,omitempty"`
}

// Reported is the report of a backup of one volume.
type Reported interface {
	*Report | *RepositoryReport
	Volume() string
	Place() string
	Sizes() Totals
	Counted() int64
	Took() (seconds, rate float64)
	Since() string
	Description() string
}

// Failure is a volume of which there is no backup.
type Failure struct {
	LV    string `json:"lv"`
	Error string `json:"error"`
}

// Totals sum backups up. In bytes.
type Totals struct {
	VolumeBytes  int64 `json:"volume_bytes"`
	ReadBytes    int64 `json:"read_bytes"`
	ChangedBytes int64 `json:"changed_bytes"` // without a base: what is not zero
	StoredBytes  int64 `json:"stored_bytes"`
	// SnapshotFill is the highest of all snapshots, null if there was no store.
	SnapshotFill *float64 `json:"snapshot_fill_percent"`
}

func (t *Totals) add(o Totals) {
	t.VolumeBytes += o.VolumeBytes
	t.ReadBytes += o.ReadBytes
	t.ChangedBytes += o.ChangedBytes
	t.StoredBytes += o.StoredBytes
	if o.SnapshotFill != nil && (t.SnapshotFill == nil || *o.SnapshotFill > *t.SnapshotFill) {
		t.SnapshotFill = o.SnapshotFill
	}
}

// Volume is the volume's name.
func (r *Report) Volume() string { return r.VG + "/" + r.LV }

// Place is where the backup is: the image's path.
func (r *Report) Place() string { return r.Image }

// Sizes are what the backup adds to a sum.
func (r *Report) Sizes() Totals {
	return Totals{VolumeBytes: r.VolumeBytes, ReadBytes: r.ReadBytes, ChangedBytes: r.DataBytes, StoredBytes: r.StoredBytes, SnapshotFill: r.SnapshotFill}
}

// Counted is how many files an archive has, 0 for an image.
func (r *Report) Counted() int64 { return r.Files }

// Took is how long it took, and bytes a second.
func (r *Report) Took() (seconds, rate float64) { return r.Seconds, r.Rate }

// Since is the backup of which what has not changed was taken: none, for plain
// files.
func (r *Report) Since() string { return "" }

// Description is the path of the virtual machine's description, "" if there is none.
func (r *Report) Description() string { return r.Domain }

// Description is of plain files only.
func (r *RepositoryReport) Description() string { return "" }

// Volume is the volume's name.
func (r *RepositoryReport) Volume() string { return r.VG + "/" + r.LV }

// Place is where the backup is: its ID in the repository.
func (r *RepositoryReport) Place() string { return r.Backup }

// Sizes are what the backup adds to a sum.
func (r *RepositoryReport) Sizes() Totals {
	return Totals{VolumeBytes: r.VolumeBytes, ReadBytes: r.Read, ChangedBytes: r.Changed, StoredBytes: r.Written, SnapshotFill: r.SnapshotFill}
}

// Counted is how many files there are: a repository keeps images.
func (r *RepositoryReport) Counted() int64 { return 0 }

// Took is how long it took, and bytes a second.
func (r *RepositoryReport) Took() (seconds, rate float64) { return r.Seconds, r.Rate }

// Since is the backup of which what has not changed was taken, "" if everything
// was read.
func (r *RepositoryReport) Since() string { return r.Base }

// common are the options that all backups of a set share.
type common struct {
	target   string // for people
	size     volume.Size
	dryRun   bool
	hooks    quiet.Hooks
	noFreeze bool
	Reporter
}

// moment is what the backups of a set have in common once their snapshots are
// taken.
type moment struct {
	instant *Instant
	notes   []string      // of taking the snapshots, where there is one backup only
	took    time.Duration // since the beginning, for the same
	pause   quiet.Pause
	lock    *repo.Lock // nil for plain files
}

// member is the backup of one volume of a set, which may be the only one.
type member[R Reported] interface {
	// prepare does what can fail before there is a snapshot. After an error
	// there is nothing to abandon.
	prepare(ctx context.Context, started time.Time) error
	source() *source
	wants() (readOnly bool) // of the snapshot
	plan() R                // what a dry run reports
	// run reads and proves. The snapshot is there, and is removed as soon as it
	// was read: left says why it could not be.
	run(ctx context.Context, m moment) (r R, left, err error)
	// abandon removes what prepare made, of a backup that is not run.
	abandon()
}

// set is a number of backups that show one instant.
type set[R Reported] struct {
	members []member[R] // those of a group one after another
	// lock, if there is one, is held while the set runs.
	lock func(ctx context.Context, purpose string) (context.Context, *repo.Lock, error)
	// prepared, if there is one, is called when all members are prepared, and
	// complete when the backups of all are good.
	prepared func(ctx context.Context, started time.Time) error
	complete func() error
	common
	report *SetReport[R]
}

// alone runs a set of one backup, and returns its report.
func alone[R Reported](ctx context.Context, s *set[R]) (r R, err error) {
	all, err := s.run(ctx)
	if all != nil && len(all.Backups) == 1 {
		r = all.Backups[0]
	}
	return r, err
}

// run runs the backups: their snapshots are taken together, and read one
// after another. There is a report once there is one of a backup.
func (s *set[R]) run(ctx context.Context) (*SetReport[R], error) {
	started := time.Now()
	s.report = &SetReport[R]{Target: s.target, Backups: []R{}}
	if err := s.prepare(ctx, started); err != nil {
		if s.dryRun {
			return nil, err
		}
		return nil, s.finish(ctx, err)
	}
	if s.dryRun {
		for _, m := range s.members {
			s.report.Backups = append(s.report.Backups, m.plan())
		}
		return s.report, nil
	}
	err := s.runLocked(ctx, started)
	if len(s.report.Backups) == 0 {
		return nil, err
	}
	s.report.Seconds = time.Since(started).Seconds()
	s.report.Rate = float64(s.report.VolumeBytes) / max(s.report.Seconds, 1e-9)
	return s.report, err
}

// prepare prepares all of the backups, or none.
func (s *set[R]) prepare(ctx context.Context, started time.Time) error {
	for i, m := range s.members {
		err := m.prepare(ctx, started)
		if err == nil {
			if i == len(s.members)-1 {
				s.nameVolumes()
				if err = s.checkInstant(); err == nil && s.prepared != nil {
					err = s.prepared(ctx, started)
				}
			}
			i++ // it has something to abandon
		}
		if err != nil {
			for _, m := range s.members[:i] {
				if !s.dryRun {
					m.abandon()
				}
			}
			return err
		}
	}
	return nil
}

// nameVolumes puts the names of what is backed up into the report.
func (s *set[R]) nameVolumes() {
	s.report.VG = s.members[0].source().vg.Name
	for _, m := range s.members {
		if m.source().vg.Name != s.report.VG {
			s.report.VG = ""
		}
	}
	for _, m := range s.members {
		s.report.Volumes = append(s.report.Volumes, s.name(m.source()))
	}
}

// name is how a volume is called in the report.
func (s *set[R]) name(src *source) string {
	if s.report.VG == "" {
		return fullName(src)
	}
	return src.lv.Name
}

func fullName(src *source) string { return src.vg.Name + "/" + src.lv.Name }

// checkInstant refuses volumes of which it cannot be said that their backups
// show one instant.
func (s *set[R]) checkInstant() error {
	seen := map[string]bool{}
	first := s.members[0].source()
	for _, m := range s.members {
		src := m.source()
		switch {
		case seen[fullName(src)]:
			return errs.E(errs.Usage, "%s is named twice", fullName(src))
		case len(s.members) > 1 && (src.own != first.own || !src.own && (src.instant == "" || src.instant != first.instant)):
			odd := src
			if src.own {
				odd = first
			}
			return errs.WithHint(errs.E(errs.Conflict, "%s is a snapshot already, and was not taken together with the others", odd.id()),
				"Back it up by itself, or name its origin.")
		}
		seen[fullName(src)] = true
	}
	return nil
}

// purpose is what the set is, for those who wait for its lock.
func (s *set[R]) purpose() string {
	var names []string
	for _, m := range s.members {
		names = append(names, fullName(m.source()))
	}
	return "backup of " + strings.Join(names, ", ")
}

func (s *set[R]) runLocked(ctx context.Context, started time.Time) error {
	if s.lock == nil {
		return s.runAll(ctx, started, nil)
	}
	locked, lock, err := s.lock(ctx, s.purpose())
	if err != nil {
		return s.finish(ctx, err)
	}
	return errors.Join(s.runAll(locked, started, lock), errs.Warning(lock.Release(ctx)))
}

// runAll takes the snapshots and runs one backup after another, and the hooks
// around it.
func (s *set[R]) runAll(ctx context.Context, started time.Time, lock *repo.Lock) error {
	m := moment{lock: lock, instant: s.instant()}
	if m.instant != nil {
		s.report.Instant = m.instant.ID
	}
	notes, warned, err := s.takeQuietly(ctx)
	for _, n := range notes {
		if strings.HasPrefix(n, "WARNING:") {
			s.note(n)
		}
	}
	if m.pause = s.report.Pause; err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%s %w (%v)", s.purpose(), ErrInterrupted, context.Cause(ctx))
		}
		for _, m := range s.members {
			m.abandon()
			err = errors.Join(err, m.source().release(ctx))
		}
		return s.finish(ctx, err)
	}
	if len(s.members) == 1 {
		m.notes, m.took = append(s.report.Notes, notes...), time.Since(started)
	} else {
		s.report.Notes = append(s.report.Notes, notes...)
	}
	failed := warned
	for i, b := range s.members {
		failed = errors.Join(failed, s.runOne(ctx, b, i, m))
	}
	if s.complete != nil && len(s.report.Backups) == len(s.members) {
		failed = errors.Join(failed, s.complete())
	}
	return s.finish(ctx, failed)
}

// runOne runs a backup, unless the set was cancelled before it was its turn.
func (s *set[R]) runOne(ctx context.Context, b member[R], i int, m moment) error {
	name := s.name(b.source())
	if ctx.Err() != nil && i > 0 {
		b.abandon()
		s.report.Failed = append(s.report.Failed, Failure{name, "interrupted before it began"})
		return b.source().release(ctx)
	}
	if s.Begin != nil {
		s.Begin(name, i, len(s.members))
	}
	r, left, err := b.run(ctx, m)
	if err != nil {
		s.report.Failed = append(s.report.Failed, Failure{name, err.Error()})
		if len(s.members) > 1 && ctx.Err() == nil {
			err = fmt.Errorf("backup of %s: %w", fullName(b.source()), err)
		}
		return errors.Join(err, left)
	}
	s.report.Backups = append(s.report.Backups, r)
	s.report.Totals.add(r.Sizes())
	return errs.Warning(left)
}

// instant is that of the set: a new one, or the one that its snapshots have
// already.
func (s *set[R]) instant() *Instant {
	first := s.members[0].source()
	id := first.instant
	if first.own {
		id = NewInstant()
	}
	if id == "" {
		return nil
	}
	return &Instant{ID: id, Volumes: s.report.Volumes}
}

// takeQuietly makes the snapshots of all members while everything rests. warned is
// what went wrong though they are there.
func (s *set[R]) takeQuietly(ctx context.Context) (notes []string, warned, err error) {
	plan := quiet.Plan{NoFreeze: s.noFreeze, Hooks: s.hooks, Subject: s.subject(), Warn: s.warn}
	for sources := range ofOneGroup(s.sources()) {
		v := quiet.Volumes{Group: sources[0].g}
		for _, src := range sources {
			if src.own {
				v.LVs = append(v.LVs, src.lv.Name)
			}
		}
		plan.Volumes = append(plan.Volumes, v)
	}
	s.report.Pause, err = quiet.While(ctx, plan, func(ctx context.Context) (err error) {
		notes, err = s.take(ctx)
		return err
	})
	if errs.OnlyWarnings(err) {
		return notes, err, nil
	}
	return notes, nil, err
}

// warn is for the person who watches, and for the report.
func (s *set[R]) warn(text string) {
	s.report.Notes = append(s.report.Notes, text)
	s.note(text)
}

// subject is what hooks hear of the set.
func (s *set[R]) subject() quiet.Subject {
	about := quiet.Subject{Target: s.target, Instant: s.report.Instant}
	for _, m := range s.members {
		if src := m.source(); src != nil { // else it could not be prepared
			about.Volumes = append(about.Volumes, fullName(src))
		}
	}
	return about
}

// finish runs the last hook: after-backup, or on-failure.
func (s *set[R]) finish(ctx context.Context, err error) error {
	var places []string
	for _, b := range s.report.Backups {
		places = append(places, b.Place())
	}
	env := append(quiet.ResultEnv(err), "COWL_BACKUPS="+strings.Join(places, "\n"))
	ctx = context.WithoutCancel(ctx)
	if err != nil && !errs.OnlyWarnings(err) {
		return errors.Join(err, s.hooks.Run(ctx, quiet.OnFailure, s.subject(), env...))
	}
	return errors.Join(err, errs.Warning(s.hooks.Run(ctx, quiet.AfterBackup, s.subject(), env...)))
}

// take makes the snapshots of all members.
func (s *set[R]) take(ctx context.Context) (notes []string, err error) {
	for _, m := range s.members {
		if m.source().own {
			m.source().readOnly = m.wants()
		}
	}
	return takeTogether(ctx, s.sources(), s.size)
}

func (s *set[R]) sources() []*source {
	var all []*source
	for _, m := range s.members {
		all = append(all, m.source())
	}
	return all
}

// takeTogether makes the snapshots that are ours to make, at one instant. Also
// after an error they have to be released: a request that was cancelled may have
// been carried out.
func takeTogether(ctx context.Context, sources []*source, size volume.Size) (notes []string, err error) {
	var parts []manager.Part
	var names []string
	for own := range ofOneGroup(sources) {
		own = slices.DeleteFunc(own, func(src *source) bool { return !src.own })
		if len(own) == 0 {
			continue
		}
		part := manager.Part{Group: own[0].g, Name: own[0].vg.Name}
		for _, src := range own {
			src.made = true
			names = append(names, fullName(src))
			part.Specs = append(part.Specs, src.spec(size, len(own)))
		}
		volume.ShareFree(part.Specs)
		parts = append(parts, part)
	}
	if len(parts) == 0 {
		return nil, nil
	}
	results, err := manager.Together(ctx, parts)
	if errs.Is(err, errs.NoSpace) {
		err = errs.WithHint(err, "Add a physical volume with vgextend, or ask for a smaller snapshot with -L.")
	}
	if err != nil {
		return nil, fmt.Errorf("snapshot of %s: %w", strings.Join(names, ", "), err)
	}
	for _, r := range results {
		notes = append(notes, r.Notes...)
	}
	return notes, nil
}

// ofOneGroup walks the groups that the sources are of, with the sources of each.
func ofOneGroup(sources []*source) iter.Seq[[]*source] {
	return func(yield func([]*source) bool) {
		for i, first := range sources {
			ofGroup := func(src *source) bool { return src.vg.ID == first.vg.ID }
			if slices.ContainsFunc(sources[:i], ofGroup) {
				continue
			}
			var all []*source
			for _, src := range sources[i:] {
				if ofGroup(src) {
					all = append(all, src)
				}
			}
			if !yield(all) {
				return
			}
		}
	}
}

// activationSkip is the flag of volumes that lvm2 activates only if it is told to,
// as it makes snapshots in thin pools. A clone that is in use does not have it.
const activationSkip = "ACTIVATION_SKIP"

// WholeGroup names the volumes that a backup of a group as such is of: all but
// snapshots, and what cannot be backed up; skipped says so of these.
func WholeGroup(st *manager.Status) (names, skipped []string) {
	for _, lv := range st.Group.Visible() {
		err := st.Backable(lv)
		_, merging := st.Group.MergingInto(lv)
		switch {
		case st.Group.IsCow(lv), lv.ThinOrigin() != "" && slices.Contains(lv.Tags, Tag):
		case st.Kernel && lv.IsPool(): // its volumes are named
		case err != nil:
			skipped = append(skipped, fmt.Sprintf("%s/%s is left out: %v", st.Group.Name, lv.Name, err))
		case lv.ThinOrigin() != "" && slices.Contains(lv.Flags, activationSkip):
			skipped = append(skipped, fmt.Sprintf("%s/%s is left out: it is a snapshot of %s that is not meant to be activated", st.Group.Name, lv.Name, lv.ThinOrigin()))
		case merging:
			skipped = append(skipped, fmt.Sprintf("%s/%s is left out: a snapshot is being merged into it", st.Group.Name, lv.Name))
		default:
			names = append(names, lv.Name)
		}
	}
	return names, skipped
}

// instantOf returns the instant that a snapshot's tags name, "" if none.
func instantOf(lv *volume.LV) string {
	i := slices.IndexFunc(lv.Tags, func(t string) bool { return strings.HasPrefix(t, InstantTag) })
	if i < 0 {
		return ""
	}
	return strings.TrimPrefix(lv.Tags[i], InstantTag)
}
