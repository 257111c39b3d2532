package backup

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"cowl/internal/errs"
	"cowl/internal/forecast"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// Tag marks the snapshots that backups make, so that one which outlived its
// backup can be told from a person's own.
const Tag = "cowl.backup"

// ownerTag begins the second tag of such a snapshot, which is of one backup
// only: "cowl.backup.owner=HOST:PID:RANDOM".
const ownerTag = "cowl.backup.owner="

// cleanupTime bounds what is still done after a backup was cancelled.
const cleanupTime = 30 * time.Second

// source is what an image is read from.
type source struct {
	g        manager.Group
	vg       *volume.Group // when the backup began
	lv       *volume.LV    // the volume that the image is of
	snapshot string        // what is read
	own      bool          // we make the snapshot, and remove it
	made     bool          // it exists
	readOnly bool
	owner    string // the tag that makes the snapshot ours
	instant  string // of a snapshot that is not ours, "" if not known
	tracks   bool   // ours is to be left behind, see track.go
	pooled   bool   // what is read is in a thin pool: it has no store of its own
}

// findSource looks the volume up. One that is a snapshot is read as it is, of
// any other a snapshot is to be taken.
func findSource(ctx context.Context, g manager.Group, name string) (*source, *manager.Status, error) {
	st, err := g.Status(ctx)
	if err != nil {
		return nil, nil, err
	}
	lv, err := st.Group.FindLV(name)
	if err != nil {
		return nil, nil, err
	}
	if err := st.Backable(lv); err != nil {
		return nil, nil, err
	}
	s := &source{g: g, vg: st.Group, lv: lv}
	snap, isSnapshot := st.Group.SnapshotOf(lv)
	_, merging := st.Group.MergingInto(lv)
	switch {
	case isSnapshot && snap.Segment.Merging, merging:
		return nil, nil, errs.WithHint(errs.E(errs.Conflict, "%s/%s is being merged", st.Group.Name, name), "Wait until lvs shows that the merge is done.")
	case isSnapshot:
		s.snapshot, s.readOnly, s.instant = name, lv.ReadOnly(), instantOf(lv)
	default:
		s.snapshot, s.own, s.owner = snapshotName(st.Group, name, time.Now()), true, newOwner()
	}
	return s, st, nil
}

// pool notes that our snapshot of a thin volume takes its space from the pool,
// which it does if it is given no size.
func (s *source) pool(size volume.Size) {
	s.pooled = s.own && s.lv.IsThin() && size.IsZero()
}

// id is the name of what is read, as people write it.
func (s *source) id() string { return s.vg.Name + "/" + s.snapshot }

// snapshotName makes a name for our snapshot that nothing in the group has
// and that fits device-mapper's limit together with the group's.
func snapshotName(vg *volume.Group, lv string, now time.Time) string {
	suffix := ".backup_" + now.UTC().Format(timeInNames)
	for n := 1; ; n++ {
		end := suffix
		if n > 1 {
			end += "_" + strconv.Itoa(n)
		}
		stem := lv
		for stem != "" && len(volume.DMName(vg.Name, stem+end)) > 120 {
			stem = stem[:len(stem)-1]
		}
		if vg.LV(stem+end) == nil {
			return stem + end
		}
	}
}

// newOwner makes a tag that no other backup has.
func newOwner() string {
	return fmt.Sprintf("%s%s:%d:%08x", ownerTag, hostname(), os.Getpid(), rand.Uint32())
}

// hostname is the host's name in the characters that a tag may have.
func hostname() string {
	host, _ := os.Hostname()
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("_+.-", r) || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return -1
	}, host)
}

// spec asks for our snapshot, one of n that are taken together.
func (s *source) spec(size volume.Size, n int) volume.SnapshotSpec {
	spec := volume.SnapshotSpec{Origin: s.lv.Name, Name: s.snapshot, Size: size, ReadOnly: s.readOnly, Tags: []string{Tag, s.owner}}
	if s.tracks && !s.pooled {
		spec.Tags = append(spec.Tags, trackedTags()...)
		if size.IsZero() {
			spec.Size = trackedSize(s.vg, s.lv, n)
		}
	}
	return spec
}

// release removes our snapshot, also when ctx was cancelled. What cannot be
// removed is named with the command that does it.
func (s *source) release(ctx context.Context) error {
	if !s.made {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	st, err := s.g.Status(ctx)
	if err == nil {
		lv := st.Group.LV(s.snapshot)
		if lv == nil || !slices.Contains(lv.Tags, s.owner) {
			return nil // never made, or removed by somebody else
		}
	}
	if err == nil {
		err = s.removeSnapshot(ctx, s.snapshot)
	}
	if err != nil {
		return fmt.Errorf("snapshot %s was left behind (%w); remove it with: cowl lvremove -y %s", s.id(), err, s.id())
	}
	s.made = false
	return nil
}

// removeSnapshot removes a snapshot. Whoever served our reads of it may notice
// only now that they are over.
func (s *source) removeSnapshot(ctx context.Context, name string) error {
	for wait := time.Millisecond; ; wait = min(2*wait, time.Second) {
		_, err := s.g.RemoveLVs(ctx, []string{name})
		if !errs.Is(err, errs.Busy) {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}

// check tells whether the snapshot still shows the instant it was taken at,
// and how full it is. It is asked after the last read: what was read from a
// snapshot that has overflowed by then cannot be trusted. One in a thin pool
// cannot overflow, and nothing is said of how full it is.
func (s *source) check(ctx context.Context) (*manager.CowStatus, error) {
	st, err := s.g.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("status of snapshot %s: %w", s.id(), err)
	}
	rt, ok := st.LVs[s.snapshot]
	if lv := st.Group.LV(s.snapshot); ok && s.pooled && lv != nil && slices.Contains(lv.Tags, s.owner) {
		return nil, nil
	}
	if !ok || rt.Cow == nil {
		return nil, errs.E(errs.Conflict, "snapshot %s was removed or deactivated while it was read", s.id())
	}
	if rt.Cow.Invalid {
		why := ""
		if rt.Cow.Reason != "" {
			why = " (" + rt.Cow.Reason + ")"
		}
		return rt.Cow, errs.WithHint(errs.E(errs.NoSpace, "snapshot %s has overflowed%s: its content is lost", s.id(), why),
			"Give the snapshot more room with -L: what changes on %s/%s during the backup has to fit.", s.vg.Name, s.lv.Name)
	}
	return rt.Cow, nil
}

// finalCheck is check after the last read, also when ctx was cancelled.
func (s *source) finalCheck(ctx context.Context) (*manager.CowStatus, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	return s.check(ctx)
}

// leftovers describes what earlier backups of the volume left behind: their
// snapshots, but for those that are known, and partial images in dir.
func (s *source) leftovers(dir string, known ...string) []string {
	var notes []string
	for _, snap := range s.vg.SnapshotsOf(s.lv) {
		if slices.Contains(snap.Cow.Tags, Tag) && !snap.Segment.Merging && snap.Cow.Name != s.snapshot && !slices.Contains(known, snap.Cow.Name) {
			notes = append(notes, describeLeftover(s.vg.Name+"/"+snap.Cow.Name, snap.Cow.Tags))
		}
	}
	for _, lv := range s.vg.ThinSnapshotsOf(s.lv) {
		if slices.Contains(lv.Tags, Tag) && lv.Name != s.snapshot {
			notes = append(notes, describeLeftover(s.vg.Name+"/"+lv.Name, lv.Tags))
		}
	}
	for _, path := range abandoned(dir, s.vg.Name, s.lv.Name) {
		notes = append(notes, fmt.Sprintf("%s was left by a backup that was killed; remove it with: rm '%s'", path, path))
	}
	return notes
}

// describeLeftover says whose a backup's snapshot is.
func describeLeftover(name string, tags []string) string {
	host, pid, known := ownerOf(tags)
	switch {
	case known && host != hostname():
		return fmt.Sprintf("snapshot %s belongs to a backup by process %d on %s; if that has ended, remove it with: cowl lvremove -y %s", name, pid, host, name)
	case known && alive(pid):
		return fmt.Sprintf("another backup, process %d, is using snapshot %s", pid, name)
	}
	vg, _, _ := strings.Cut(name, "/")
	return fmt.Sprintf("snapshot %s was left by a backup that was killed; remove it with: cowl cleanup %s", name, vg)
}

// patience is how many looks in a row may fail before a backup is given up:
// whoever serves the group may be gone, and holes need no reading to go on.
const patience = 3

// watch looks at the snapshot's usage while it is read, and cancels the
// returned context when it is lost. stop ends the watching and returns the
// highest usage seen.
func (s *source) watch(ctx context.Context, every time.Duration, note func(string)) (_ context.Context, stop func() *manager.CowStatus) {
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	var last *manager.CowStatus
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		failures, warned, short := 0, false, ""
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			cow, err := s.check(ctx)
			switch {
			case err == nil && cow == nil:
				failures = 0
				continue
			case err == nil:
				failures, last = 0, cow
			case cow != nil: // overflowed
				last = cow
				cancel(err)
			default:
				if failures++; failures == patience {
					cancel(err)
				}
			}
			if err == nil && !warned && fill(cow) >= 80 {
				warned = true
				note(fmt.Sprintf("snapshot %s is %.0f %% full%s; when it overflows, this backup fails", s.id(), fill(cow), fullInText(cow)))
			}
			if err == nil && cow.Short != short {
				if short = cow.Short; short != "" {
					note(fmt.Sprintf("snapshot %s is %.0f %% full and could not be extended: %s", s.id(), fill(cow), short))
				}
			}
		}
	}()
	return ctx, func() *manager.CowStatus {
		cancel(errors.New("the snapshot is no longer watched"))
		<-ended
		return last
	}
}

// fullInText is when a store will be full, if that is known.
func fullInText(c *manager.CowStatus) string {
	if c.FullIn == nil || *c.FullIn == forecast.Never {
		return ""
	}
	return fmt.Sprintf(", and will be full in %v if it goes on like this", c.FullIn.Round(time.Second))
}

// fill is how full a store is, in percent.
func fill(c *manager.CowStatus) float64 {
	if c.Invalid {
		return 100
	}
	if c.Total == 0 {
		return 0
	}
	return 100 * float64(c.Allocated) / float64(c.Total)
}

// highestFill is the fuller of two looks at a store, in percent; nil if there is
// none.
func highestFill(looks ...*manager.CowStatus) *float64 {
	var highest *float64
	for _, c := range looks {
		if c != nil && (highest == nil || fill(c) > *highest) {
			percent := fill(c)
			highest = &percent
		}
	}
	return highest
}

// bytesText writes a size for people, in binary units.
func bytesText(n int64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if i == 0 || v >= 100 {
		return fmt.Sprintf("%.0f %s", v, units[i])
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}
