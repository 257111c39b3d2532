package manager

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"cowl/internal/block"
	"cowl/internal/engine"
	"cowl/internal/errs"
	"cowl/internal/forecast"
	"cowl/internal/metastore"
	"cowl/internal/volume"
)

// Local is a Group that this process runs, and whose devices are its alone
// until it is closed.
type Local struct {
	host   *Host
	engine *engine.Group
	store  *metastore.Store
	growth volume.Growth // of snapshots whose tags do not say otherwise

	// pvs is held by AddPVs, RemovePVs and Close, over I/O, and before any
	// lock of the engine.
	pvs sync.Mutex
	set *deviceSet // guarded by pvs
}

var _ Group = (*Local)(nil)

// result translates what the engine says. After some errors there is one as
// well: what was done in part.
func result(r *engine.Result, err error) (*Result, error) {
	if r == nil {
		return nil, err
	}
	return &Result{Names: r.Names, Notes: r.Notes}, err
}

// Status implements Group.
func (l *Local) Status(ctx context.Context) (*Status, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	running := l.engine.Status()
	st := &Status{Group: running.Model, LVs: make(map[string]LVStatus, len(running.LVs))}
	for name, s := range running.LVs {
		out := LVStatus{Opens: s.Opens, ReadOnly: s.ReadOnly, Suspended: s.Suspended, Merging: s.Merging}
		if s.Cow != nil {
			cow := CowStatus(*s.Cow)
			out.Cow = &cow
		}
		st.LVs[name] = out
	}
	states := l.store.State()
	for _, listed := range running.Model.PVs {
		if pv, here := states[listed.ID]; here {
			st.PVs = append(st.PVs, describeState(pv))
		} else {
			st.PVs = append(st.PVs, PVStatus{Path: UnknownDevice, Missing: true})
		}
	}
	return st, nil
}

// checkWhole refuses to change a group of which PVs are missing, as LVM2 does.
// What is left of it can be activated and read.
func (l *Local) checkWhole() error {
	model, here := l.engine.Model(), l.store.State()
	for _, pv := range model.PVs {
		if _, ok := here[pv.ID]; !ok {
			return errs.WithHint(errs.E(errs.Conflict, "Cannot change VG %s while PVs are missing.", model.Name),
				"Bring back PV %s (last seen as %s).", pv.ID, pv.Device)
		}
	}
	return nil
}

// CreateLV implements Group.
func (l *Local) CreateLV(ctx context.Context, spec volume.LVSpec) (*Result, error) {
	err := l.checkWhole()
	if err != nil {
		return nil, err
	}
	if spec.PVs, err = l.resolve(spec.PVs); err != nil {
		return nil, err
	}
	return result(l.engine.CreateLV(ctx, spec))
}

// CreateSnapshots implements Group.
func (l *Local) CreateSnapshots(ctx context.Context, specs []volume.SnapshotSpec) (*Result, error) {
	specs, err := l.completed(specs)
	if err != nil {
		return nil, err
	}
	return result(l.engine.CreateSnapshots(ctx, specs))
}

// CreateSnapshotsWhile implements Group.
func (l *Local) CreateSnapshotsWhile(ctx context.Context, specs []volume.SnapshotSpec, limit time.Duration, held func(context.Context) error) (*Result, error) {
	specs, err := l.completed(specs)
	if err != nil {
		return nil, err
	}
	return result(l.engine.CreateSnapshotsWhile(ctx, specs, func(ctx context.Context) error {
		return timed(ctx, limit, held)
	}))
}

// completed fills in what specs leave to the group.
func (l *Local) completed(specs []volume.SnapshotSpec) ([]volume.SnapshotSpec, error) {
	if err := l.checkWhole(); err != nil {
		return nil, err
	}
	specs = slices.Clone(specs)
	for i := range specs {
		var err error
		if specs[i].PVs, err = l.resolve(specs[i].PVs); err != nil {
			return nil, err
		}
		if known, err := l.engine.Writes(specs[i].Origin); err == nil {
			AdviseSnapshot(l.engine.Model(), &specs[i], known, l.growth)
		}
	}
	return specs, nil
}

// RemoveLVs implements Group.
func (l *Local) RemoveLVs(ctx context.Context, names []string) (*Result, error) {
	if err := l.checkWhole(); err != nil {
		return nil, err
	}
	return result(l.engine.RemoveLVs(ctx, names))
}

// ExtendLV implements Group.
func (l *Local) ExtendLV(ctx context.Context, spec volume.ExtendSpec) (*Result, error) {
	err := l.checkWhole()
	if err != nil {
		return nil, err
	}
	if spec.PVs, err = l.resolve(spec.PVs); err != nil {
		return nil, err
	}
	return result(l.engine.ExtendLV(ctx, spec))
}

// SetReadOnly implements Group.
func (l *Local) SetReadOnly(ctx context.Context, name string, readOnly bool) (*Result, error) {
	if err := l.checkWhole(); err != nil {
		return nil, err
	}
	return result(l.engine.SetReadOnly(ctx, name, readOnly))
}

// ChangeTags implements Group.
func (l *Local) ChangeTags(ctx context.Context, name string, add, remove []string) (*Result, error) {
	if err := l.checkWhole(); err != nil {
		return nil, err
	}
	return result(l.engine.ChangeTags(ctx, name, add, remove))
}

// Activate implements Group.
func (l *Local) Activate(ctx context.Context, names ...string) (*Result, error) {
	return result(l.engine.Activate(ctx, names...))
}

// Deactivate implements Group.
func (l *Local) Deactivate(ctx context.Context, names ...string) (*Result, error) {
	return result(l.engine.Deactivate(ctx, names...))
}

// Merge implements Group.
func (l *Local) Merge(ctx context.Context, spec volume.MergeSpec) (*Result, error) {
	if err := l.checkWhole(); err != nil {
		return nil, err
	}
	return result(l.engine.Merge(ctx, spec))
}

// Writes implements Group.
func (l *Local) Writes(ctx context.Context, name string) (*forecast.Pattern, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return l.engine.Writes(name)
}

// Changed implements Group.
func (l *Local) Changed(ctx context.Context, snapshot string) (*Changes, error) {
	var c *Changes
	err := l.engine.Changed(ctx, snapshot, func(of *engine.Changes) func(off, length int64) error {
		c = NewChanges(of.Group, of.Snap, of.Bytes, of.Chunk)
		return c.Add
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// AddPVs implements Group. Devices that are no PVs become some if nothing that
// can be recognised is on them; Host.CreatePVs is for the others.
func (l *Local) AddPVs(ctx context.Context, paths []string) (*Result, error) {
	if err := l.checkWhole(); err != nil {
		return nil, err
	}
	l.pvs.Lock()
	defer l.pvs.Unlock()
	name := l.engine.Model().Name
	made := &Result{}
	fresh := newDeviceSet(lockOptions)
	for key, d := range l.set.disks {
		fresh.disks[key] = d // a disk that the group has a partition of is open already
	}
	pvs, err := l.host.takePVs(ctx, fresh, name, paths, PVCreate{}, made)
	var res *Result
	if err == nil {
		res, err = result(l.engine.AddPVs(ctx, pvs))
	}
	if err != nil {
		fresh.releaseAll()
		return nil, err
	}
	l.set.absorb(fresh)
	res.Notes = append(made.Notes, res.Notes...)
	return res, nil
}

// RemovePVs implements Group.
func (l *Local) RemovePVs(ctx context.Context, paths []string) (*Result, error) {
	if err := l.checkWhole(); err != nil {
		return nil, err
	}
	l.pvs.Lock()
	defer l.pvs.Unlock()
	var ids []volume.UUID
	for _, path := range paths {
		pv := l.find(path)
		if pv == nil {
			return nil, errs.E(errs.NotFound, "Failed to find physical volume %q.", path)
		}
		ids = append(ids, pv.ID)
	}
	res, err := result(l.engine.RemovePVs(ctx, ids))
	if err != nil {
		return res, err
	}
	for _, path := range paths {
		l.set.release(path)
	}
	res.Names = slices.Clone(paths)
	return res, nil
}

// RemoveGroup implements Group.
func (l *Local) RemoveGroup(ctx context.Context) (*Result, error) {
	if err := l.checkWhole(); err != nil {
		return nil, err
	}
	return result(l.engine.RemoveGroup(ctx))
}

// Open implements Group.
func (l *Local) Open(ctx context.Context, name string, readOnly bool) (block.Device, error) {
	return l.engine.Open(ctx, name, readOnly)
}

// Close implements Group. The devices are let go of when all is flushed.
func (l *Local) Close() error {
	l.pvs.Lock()
	defer l.pvs.Unlock()
	return errors.Join(l.engine.Close(), l.set.close())
}

// find returns the group's PV that has the path, nil if none does.
func (l *Local) find(path string) *volume.PV {
	want := canonical(path)
	states := l.store.State()
	for _, pv := range l.engine.Model().PVs {
		if st, here := states[pv.ID]; here && canonical(st.Path) == want {
			return pv
		}
	}
	return nil
}

// resolve turns the paths and tags of PVs as people name them into metadata
// keys.
func (l *Local) resolve(ranges []volume.PVRange) ([]volume.PVRange, error) {
	var out []volume.PVRange
	model := l.engine.Model()
	for _, r := range ranges {
		if tag, ok := strings.CutPrefix(r.PV, "@"); ok {
			for _, pv := range model.PVs {
				if slices.Contains(pv.Tags, tag) {
					out = append(out, volume.PVRange{PV: pv.Key, Start: r.Start, End: r.End, Whole: r.Whole})
				}
			}
			continue
		}
		pv := l.find(r.PV)
		if pv == nil {
			return nil, errs.E(errs.NotFound, "Physical Volume %q not found in Volume Group %q.", r.PV, model.Name)
		}
		r.PV = pv.Key
		out = append(out, r)
	}
	if ranges != nil && out == nil {
		return nil, errs.E(errs.NotFound, "No physical volume of volume group %q has the tag.", model.Name)
	}
	return out, nil
}
