package backup

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// Role is what a snapshot that a backup made is now.
type Role string

// The roles. Only the first two are left over.
const (
	Abandoned  Role = "abandoned"  // its backup was killed
	Superseded Role = "superseded" // tracking, and a later backup's does the same
	InUse      Role = "in use"     // its backup runs
	Elsewhere  Role = "elsewhere"  // its backup runs, or ran, on another host
	Tracking   Role = "tracking"   // the next backup goes by it
)

// isLeft tells whether nobody needs the snapshot any more.
func (r Role) isLeft() bool { return r == Abandoned || r == Superseded }

// Own is a snapshot that a backup made.
type Own struct {
	VG       string    `json:"vg"`
	LV       string    `json:"lv"`
	Origin   string    `json:"origin"`
	Role     Role      `json:"role"`
	Time     time.Time `json:"time"`
	Bytes    int64     `json:"bytes"` // of its COW store; 0 of one in a thin pool
	Host     string    `json:"host,omitempty"`
	Process  int       `json:"process,omitempty"`    // of the backup that runs, or was killed
	Tracks   string    `json:"repository,omitempty"` // of a tracking one: the repository's ID
	Backup   string    `json:"backup,omitempty"`     // and the backup's
	Removed  bool      `json:"removed"`
	Obstacle string    `json:"error,omitempty"` // why it could not be removed
}

// OwnSnapshots lists the snapshots in a group that backups made, by their tags.
// Those of others, and those on their way back into their origin, are not among
// them.
func OwnSnapshots(vg *volume.Group) []*Own {
	var out []*Own
	for _, s := range vg.Snapshots() {
		if s.Segment.Merging {
			continue
		}
		if o := ownSnapshot(vg, s.Cow, s.Origin.Name); o != nil {
			out = append(out, o)
		}
	}
	for _, lv := range vg.LVs {
		if lv.IsThin() && slices.Contains(lv.Tags, Tag) { // its origin may be gone
			o := ownSnapshot(vg, lv, lv.ThinOrigin())
			o.Bytes = 0 // what it takes in its pool only the pool knows
			out = append(out, o)
		}
	}
	// Of several that track one volume for one repository the latest counts.
	latest := map[[2]string]*Own{}
	for _, o := range out {
		if key := [2]string{o.Origin, o.Tracks}; o.Role == Tracking {
			if before := latest[key]; before != nil && before.Time.After(o.Time) {
				o.Role = Superseded
			} else if latest[key] = o; before != nil {
				before.Role = Superseded
			}
		}
	}
	return out
}

// ownSnapshot reads the tags of one snapshot, nil if no backup made it.
func ownSnapshot(vg *volume.Group, lv *volume.LV, origin string) *Own {
	o := &Own{VG: vg.Name, LV: lv.Name, Origin: origin, Time: time.Unix(lv.CreationTime, 0).UTC(), Bytes: vg.LVSize(lv).Bytes()}
	for _, tag := range lv.Tags {
		if text, ok := strings.CutPrefix(tag, TrackingTag); ok {
			o.Role = Tracking
			o.Tracks, o.Backup, _ = strings.Cut(text, ":")
			return o
		}
	}
	if !slices.Contains(lv.Tags, Tag) {
		return nil
	}
	o.Role = Abandoned
	host, pid, known := ownerOf(lv.Tags)
	o.Host, o.Process = host, pid
	switch {
	case known && host != hostname():
		o.Role = Elsewhere
	case known && alive(pid):
		o.Role = InUse
	}
	return o
}

// ownerOf reads which process made a snapshot.
func ownerOf(tags []string) (host string, pid int, known bool) {
	for _, tag := range tags {
		if owner, ok := strings.CutPrefix(tag, ownerTag); ok {
			host, text, _ := strings.Cut(owner, ":")
			text, _, _ = strings.Cut(text, ":")
			pid, err := strconv.Atoi(text)
			return host, pid, err == nil
		}
	}
	return "", 0, false
}

// Cleanup removes from a group what backups left behind that were killed. It lists
// all snapshots that backups made, and touches no others. What cannot be
// removed does not keep it from the rest.
func Cleanup(ctx context.Context, g manager.Group, dryRun bool) ([]*Own, error) {
	st, err := g.Status(ctx)
	if err != nil {
		return nil, err
	}
	list := OwnSnapshots(st.Group)
	var problems []error
	for _, o := range list {
		if !o.Role.isLeft() || dryRun {
			continue
		}
		if ctx.Err() != nil {
			return list, errors.Join(append(problems, context.Cause(ctx))...)
		}
		_, err := g.RemoveLVs(ctx, []string{o.LV})
		if o.Removed = err == nil; err != nil {
			o.Obstacle = err.Error()
			problems = append(problems, errs.E(errs.KindOf(err), "%s/%s cannot be removed: %w", o.VG, o.LV, err))
		}
	}
	return list, errors.Join(problems...)
}
