package cli

import (
	"context"
	"crypto/rand"
	"slices"
	"time"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/forecast"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// dryGroup is a group under --test: changes are made to a copy of its
// metadata in memory, by the same rules, and nothing else happens.
type dryGroup struct {
	real   manager.Group // for questions only
	status *manager.Status
	stamp  volume.Stamp
	growth volume.Growth // of snapshots whose tags do not say otherwise
}

var _ manager.Group = (*dryGroup)(nil)

// newDry returns a dry run over a group, which is the dry run's to close.
func newDry(ctx context.Context, g manager.Group, now int64) (*dryGroup, error) {
	s, err := g.Status(ctx)
	if err != nil {
		g.Close()
		return nil, err
	}
	copied := *s
	copied.Group = s.Group.Clone()
	return &dryGroup{real: g, status: &copied, stamp: volume.Stamp{NewID: randomID, Time: now}}, nil
}

func randomID() volume.UUID {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return volume.UUIDFrom(b)
}

// apply takes a change over.
func (d *dryGroup) apply(c *volume.Change, err error) (*manager.Result, error) {
	if err != nil {
		return nil, err
	}
	d.status.Group = c.Group
	return &manager.Result{Names: c.LVs, Notes: c.Notes}, nil
}

// resolve turns the PVs that a person named into those of the metadata.
func (d *dryGroup) resolve(ranges []volume.PVRange) ([]volume.PVRange, error) {
	out := slices.Clone(ranges)
	for i, r := range out {
		key := d.key(r.PV)
		if key == "" {
			return nil, errs.E(errs.NotFound, "Physical Volume %q not found in Volume Group %q.", r.PV, d.status.Group.Name)
		}
		out[i].PV = key
	}
	return out, nil
}

// key returns the metadata's name for the PV at the path, "" if there is none.
func (d *dryGroup) key(path string) string {
	for i, pv := range d.status.PVs {
		if samePath(pv.Path, path) {
			return d.status.Group.PVs[i].Key
		}
	}
	return ""
}

// Status implements manager.Group.
func (d *dryGroup) Status(context.Context) (*manager.Status, error) { return d.status, nil }

// CreateLV implements manager.Group.
func (d *dryGroup) CreateLV(_ context.Context, spec volume.LVSpec) (*manager.Result, error) {
	pvs, err := d.resolve(spec.PVs)
	if err != nil {
		return nil, err
	}
	spec.PVs = pvs
	return d.apply(d.status.Group.CreateLV(spec, d.stamp))
}

// CreateSnapshots implements manager.Group.
func (d *dryGroup) CreateSnapshots(ctx context.Context, specs []volume.SnapshotSpec) (*manager.Result, error) {
	all := &manager.Result{}
	for _, spec := range specs {
		pvs, err := d.resolve(spec.PVs)
		if err != nil {
			return nil, err
		}
		spec.PVs = pvs
		if known, err := d.real.Writes(ctx, spec.Origin); err == nil {
			manager.AdviseSnapshot(d.status.Group, &spec, known, d.growth)
		}
		r, err := d.apply(d.status.Group.CreateSnapshot(spec, d.stamp))
		if err != nil {
			return nil, err
		}
		all.Names, all.Notes = append(all.Names, r.Names...), append(all.Notes, r.Notes...)
	}
	return all, nil
}

// CreateSnapshotsWhile implements manager.Group. Nothing is held.
func (d *dryGroup) CreateSnapshotsWhile(ctx context.Context, specs []volume.SnapshotSpec, _ time.Duration, held func(context.Context) error) (*manager.Result, error) {
	r, err := d.CreateSnapshots(ctx, specs)
	if err != nil {
		return nil, err
	}
	return r, held(ctx)
}

// RemoveLVs implements manager.Group.
func (d *dryGroup) RemoveLVs(_ context.Context, names []string) (*manager.Result, error) {
	all := &manager.Result{}
	for _, name := range names {
		r, err := d.apply(d.status.Group.RemoveLV(name))
		if err != nil {
			return nil, err
		}
		all.Names, all.Notes = append(all.Names, r.Names...), append(all.Notes, r.Notes...)
	}
	return all, nil
}

// ExtendLV implements manager.Group.
func (d *dryGroup) ExtendLV(_ context.Context, spec volume.ExtendSpec) (*manager.Result, error) {
	pvs, err := d.resolve(spec.PVs)
	if err != nil {
		return nil, err
	}
	spec.PVs = pvs
	return d.apply(d.status.Group.ExtendLV(spec))
}

// SetReadOnly implements manager.Group.
func (d *dryGroup) SetReadOnly(_ context.Context, name string, readOnly bool) (*manager.Result, error) {
	return d.apply(d.status.Group.SetReadOnly(name, readOnly))
}

// ChangeTags implements manager.Group.
func (d *dryGroup) ChangeTags(_ context.Context, name string, add, remove []string) (*manager.Result, error) {
	return d.apply(d.status.Group.ChangeTags(name, add, remove))
}

// Activate implements manager.Group.
func (d *dryGroup) Activate(_ context.Context, names ...string) (*manager.Result, error) {
	return d.known(names)
}

// Deactivate implements manager.Group.
func (d *dryGroup) Deactivate(_ context.Context, names ...string) (*manager.Result, error) {
	return d.known(names)
}

func (d *dryGroup) known(names []string) (*manager.Result, error) {
	for _, name := range names {
		if _, err := d.status.Group.FindLV(name); err != nil {
			return nil, err
		}
	}
	return &manager.Result{Names: names}, nil
}

// Merge implements manager.Group.
func (d *dryGroup) Merge(_ context.Context, spec volume.MergeSpec) (*manager.Result, error) {
	return d.apply(d.status.Group.StartMerge(spec))
}

// Changed implements manager.Group.
func (d *dryGroup) Changed(ctx context.Context, snapshot string) (*manager.Changes, error) {
	return d.real.Changed(ctx, snapshot)
}

// AddPVs implements manager.Group. What the PVs hold is not known here.
func (d *dryGroup) AddPVs(_ context.Context, paths []string) (*manager.Result, error) {
	for _, p := range paths {
		if d.key(p) != "" {
			return nil, errs.E(errs.Exists, "Physical volume '%s' is already in volume group '%s'", p, d.status.Group.Name)
		}
	}
	return &manager.Result{Names: paths}, nil
}

// RemovePVs implements manager.Group.
func (d *dryGroup) RemovePVs(_ context.Context, paths []string) (*manager.Result, error) {
	for _, p := range paths {
		key := d.key(p)
		if key == "" {
			return nil, errs.E(errs.NotFound, "Failed to find physical volume %q.", p)
		}
		c, err := d.status.Group.RemovePV(key)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(d.status.Group.PVs, func(pv *volume.PV) bool { return pv.Key == key })
		d.status.PVs = slices.Delete(slices.Clone(d.status.PVs), i, i+1)
		d.status.Group = c.Group
	}
	return &manager.Result{Names: paths}, nil
}

// ResizePV implements manager.Group.
func (d *dryGroup) ResizePV(_ context.Context, path string, size int64) (*manager.Result, error) {
	key := d.key(path)
	if key == "" {
		return nil, errs.E(errs.NotFound, "Failed to find physical volume %q.", path)
	}
	if size == 0 {
		var err error
		if size, err = deviceSize(path); err != nil {
			return nil, err
		}
	}
	c, err := d.status.Group.ResizePV(key, path, volume.Sectors(size/block.SectorSize))
	if err != nil {
		return nil, err
	}
	d.status.Group = c.Group
	return &manager.Result{Names: []string{path}}, nil
}

// RemoveGroup implements manager.Group.
func (d *dryGroup) RemoveGroup(context.Context) (*manager.Result, error) {
	return &manager.Result{Names: []string{d.status.Group.Name}}, nil
}

// Open implements manager.Group; there is nothing to open.
func (d *dryGroup) Open(context.Context, string, bool) (block.Device, error) {
	return nil, errs.E(errs.Unsupported, "nothing is opened in test mode")
}

// Writes implements manager.Group.
func (d *dryGroup) Writes(ctx context.Context, name string) (*forecast.Pattern, error) {
	return d.real.Writes(ctx, name)
}

// Close implements manager.Group.
func (d *dryGroup) Close() error { return d.real.Close() }
