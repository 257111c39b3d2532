// Package manager is what verbs and backups see: volume groups and volumes by
// name, whoever runs them. A Group is run by cowl's engine in this process, by
// a cowl daemon that owns it (package daemon's client), or by the host's kernel
// through lvm2 (Hosted).
package manager

import (
	"context"
	"strings"
	"time"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/forecast"
	"cowl/internal/volume"
)

// Group is one volume group that can be read, changed and served. Methods may
// be called in parallel; changes of metadata happen one after another.
//
// Names are of logical volumes within the group, as a person sees them (a
// snapshot's own name, never "snapshotN").
//
// A method that changes something either commits the new metadata on every
// PV or leaves the old, also when it returns an error or the power fails.
type Group interface {
	// Status returns the metadata and what runs at present.
	Status(ctx context.Context) (*Status, error)

	// CreateLV allocates a linear volume. Its first 4 KiB are zeroed, as
	// lvcreate's -Zy does. In an active group it is active at once.
	CreateLV(ctx context.Context, spec volume.LVSpec) (*Result, error)

	// CreateSnapshots takes snapshots of several volumes at one instant: no
	// write to any of the origins lies between them. Those without a size get
	// one by what Writes knows, if that is enough, else a safe one.
	CreateSnapshots(ctx context.Context, specs []volume.SnapshotSpec) (*Result, error)

	// CreateSnapshotsWhile is CreateSnapshots for an instant that other groups
	// share: when nothing is written to any of the origins any more held is called,
	// and nothing is until it returns and the snapshots are there. An error of it is
	// returned, and there are no snapshots; so it is, of kind errs.Conflict, if they
	// were held for longer than limit.
	//
	// Use Together.
	CreateSnapshotsWhile(ctx context.Context, specs []volume.SnapshotSpec, limit time.Duration, held func(context.Context) error) (*Result, error)

	// RemoveLVs removes volumes; an origin's snapshots go with it. A volume
	// that somebody has open is refused with errs.Busy.
	RemoveLVs(ctx context.Context, names []string) (*Result, error)

	// ExtendLV makes a volume or a snapshot's COW store larger, also while it is
	// open.
	ExtendLV(ctx context.Context, spec volume.ExtendSpec) (*Result, error)

	// SetReadOnly changes a volume's permission.
	SetReadOnly(ctx context.Context, name string, readOnly bool) (*Result, error)

	// ChangeTags adds tags to a volume and removes others, in one commit. Those
	// that say what becomes of a full snapshot count from then on.
	ChangeTags(ctx context.Context, name string, add, remove []string) (*Result, error)

	// Activate makes volumes available for Open and export, Deactivate takes
	// them away (errs.Busy while open). No names means all.
	Activate(ctx context.Context, names ...string) (*Result, error)
	Deactivate(ctx context.Context, names ...string) (*Result, error)

	// Merge starts merging a snapshot into its origin and returns; progress
	// shows in Status, and the snapshot is gone when it is done. While the
	// origin is open the start is delayed until its last user closes it. Of a
	// merge that has begun it changes the rate.
	Merge(ctx context.Context, spec volume.MergeSpec) (*Result, error)

	// Writes returns what is known of how a volume is written to, or the origin
	// of a snapshot; a pattern without windows if nothing is.
	Writes(ctx context.Context, name string) (*forecast.Pattern, error)

	// Changed returns where a snapshot's origin may have changed since the
	// snapshot was taken. A snapshot that is invalid, or becomes so meanwhile, no
	// longer knows that: it is an error, as is one that is being merged, or whose origin
	// another is being merged into.
	Changed(ctx context.Context, snapshot string) (*Changes, error)

	// AddPVs and RemovePVs are vgextend and vgreduce, by path.
	AddPVs(ctx context.Context, paths []string) (*Result, error)
	RemovePVs(ctx context.Context, paths []string) (*Result, error)

	// ResizePV is pvresize, by path: the PV takes over its device's present size,
	// or what is given as its size in bytes, if that is not 0.
	ResizePV(ctx context.Context, path string, size int64) (*Result, error)

	// RemoveGroup removes the group and all of its volumes from its PVs,
	// which stay PVs.
	RemoveGroup(ctx context.Context) (*Result, error)

	// Open returns a volume's content. It activates the volume for as long as
	// it is open, and counts as one opener.
	Open(ctx context.Context, name string, readOnly bool) (block.Device, error)

	// Close ends the use of the group. In this process's own engine that
	// flushes and deactivates everything, and stops merges between two steps.
	Close() error
}

// Result is what a change has to say.
type Result struct {
	Names []string `json:"names,omitempty"` // of what was created or changed, in order
	Notes []string `json:"notes,omitempty"` // LVM's remarks: rounding, reduced COW sizes, delayed merges
}

// Status is a group's metadata with its runtime state.
type Status struct {
	Group *volume.Group
	LVs   map[string]LVStatus // by name; active volumes only
	PVs   []PVStatus          // in the metadata's order
	Owner int                 // process id of the daemon that has the group active, 0 if none

	// Kernel: lvm2 runs the group, and so volumes of more types than cowl's engine.
	Kernel bool
}

// Backable returns nil if a backup can be made of a volume by whoever runs the
// group, else an error of kind errs.Unsupported which says what it is, and what to
// do.
func (s *Status) Backable(lv *volume.LV) error {
	name := s.Group.Name + "/" + lv.Name
	if lv.IsPool() {
		kind := string(lv.Segments[0].Type)
		err := errs.E(errs.Unsupported, "%s is a %s: what is in it are the volumes that take their space from it", name, kind)
		if names := s.Group.ThinVolumesOf(lv); len(names) > 0 {
			return errs.WithHint(err, "Name these: %s/%s", s.Group.Name, strings.Join(names, " "+s.Group.Name+"/"))
		}
		return err
	}
	kind, foreign := s.Group.UnsupportedType(lv)
	switch {
	case s.Kernel && !s.Group.IsVisible(lv) && !s.Group.IsCow(lv):
		return errs.WithHint(errs.E(errs.Unsupported, "volume %s is internal to another one", name), "Name that one: lvs -a -o name,devices %s shows it.", s.Group.Name)
	case s.Kernel || !foreign:
		return nil
	}
	return errs.WithHint(errs.E(errs.Unsupported, "volume %s has segment type %s, which cowl's engine does not run", name, kind),
		"The kernel's LVM may: as root, lvchange -ay %s, and then the same command without --backend. See docs/host-lvm.md.", name)
}

// PVStatus is what the metadata does not say about a PV.
type PVStatus struct {
	Path    string
	Size    int64 // bytes, of the device
	Missing bool
	MDAs    []MDAStatus
}

// MDAStatus is one metadata area of a PV. All in bytes.
type MDAStatus struct {
	Offset, Size int64
	TextSize     int64 // of the committed metadata, 0 if none
	Ignored      bool
	Damaged      string // why it cannot be used, "" if it can
}

// LVStatus is the runtime state of an active volume.
type LVStatus struct {
	Opens     int // NBD connections, FUSE handles and callers of Open
	ReadOnly  bool
	Suspended bool
	Cow       *CowStatus // of a snapshot, nil otherwise
	// Merging is the snapshot that is being merged into this volume, with the
	// chunks still to merge in that snapshot's Cow; "" if none.
	Merging string
	// Device is what a client connects to; "" where there is none.
	NBD, File string
}

// CowStatus is a COW store's usage as dm-snapshot's status line gives it. All
// in sectors, metadata included in Allocated.
type CowStatus struct {
	Allocated, Total, Metadata volume.Sectors
	Invalid                    bool // overflowed, or found invalid
	MergeFailed                bool
	Delayed                    bool   // a merge waits for the origin to be closed
	Reason                     string // why it is invalid or failed, for people

	OnFull    string // what becomes of it when it is full, see volume.OnFull
	Threshold int    // percent in use from which on it is extended; 0 if it is not
	Short     string // why it could not be extended when it had to be, for people
	Holding   int    // writes that wait for space

	// FullIn is when it will be full if it goes on filling as it did,
	// forecast.Never if it does not fill; nil while too little is known.
	FullIn *time.Duration
}
