package manager

import (
	"context"
	"slices"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/errs"
	"cowl/internal/forecast"
	"cowl/internal/hostlvm"
	"cowl/internal/metastore"
	"cowl/internal/volume"
)

// Hosted is a Group that the host's kernel runs. It is driven through lvm2; this
// process holds nothing between two calls but what Open returned, and watches
// snapshots.
type Hosted struct {
	host      *Host
	group     *hostlvm.Group
	id        volume.UUID
	name      string
	rehearsal bool
}

var _ Group = (*Hosted)(nil)

// tryHosted opens a group that the kernel has active, or any for the backend
// "host". The error is of kind errs.NotFound if it is not the kernel's.
func (h *Host) tryHosted(ctx context.Context, name string) (*Hosted, error) {
	s, err := h.scan(ctx)
	if err != nil {
		return nil, err
	}
	defer s.set.close()
	f, err := s.found.Find(name)
	if err != nil {
		return nil, err
	}
	switch {
	case h.o.Backend != BackendHost && !kernelRuns(f):
		return nil, errs.E(errs.NotFound, "the kernel does not run volume group %s", name)
	case f.Unusable != nil:
		return nil, f.Unusable
	case !h.root:
		return nil, errs.WithHint(errs.E(errs.Denied, "the kernel runs volume group %s, and only root can use it there", name), "Run cowl as root.")
	}
	settings, _, err := h.Settings()
	if err != nil {
		return nil, err
	}
	g := &Hosted{host: h, id: f.Group.ID, name: name}
	g.group, err = hostlvm.Open(ctx, g.id, name, hostlvm.Options{
		Read: g.model, Guard: g.mayChange, Growth: settings.Growth, Log: h.o.Log,
		Advise: func(model *volume.Group, spec *volume.SnapshotSpec) { g.advise(model, spec) },
	})
	return g, err
}

// read reads the group anew from all devices that are looked at: another command
// may have given it more.
func (g *Hosted) read(ctx context.Context) (*metastore.Found, *scanned, error) {
	s, err := g.host.scan(ctx)
	if err != nil {
		return nil, nil, err
	}
	f, err := s.found.Find(g.name)
	if err == nil && f.Group.ID != g.id {
		err = errs.E(errs.Conflict, "volume group %s has become another one, with id %s", g.name, f.Group.ID)
	}
	if err != nil {
		s.set.close()
		return nil, nil, err
	}
	return f, s, nil
}

func (g *Hosted) model(ctx context.Context) (*volume.Group, error) {
	f, s, err := g.read(ctx)
	if err != nil {
		return nil, err
	}
	defer s.set.close()
	return f.Group, nil
}

// mayChange makes sure that no engine of cowl's has the group. The kernel's own
// mappings keep engines away; where there are none just now, the PVs must be
// free.
func (g *Hosted) mayChange(ctx context.Context) error {
	f, s, err := g.read(ctx)
	if err != nil {
		return err
	}
	defer s.set.close()
	if kernelRuns(f) {
		return nil
	}
	for _, pv := range f.PVs {
		if pv == nil {
			continue
		}
		claim, err := file.Open(pv.Path, file.Options{ReadOnly: true, Lock: file.Exclusive})
		if err != nil {
			return err
		}
		if err := claim.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (g *Hosted) advise(model *volume.Group, spec *volume.SnapshotSpec) {
	lv := model.LV(spec.Origin)
	if lv == nil {
		return
	}
	if known := g.host.recall(model)[lv.ID]; known != nil {
		AdviseSnapshot(model, spec, known, volume.Growth{}) // nobody extends it while it is not open
	}
}

// Status implements Group.
func (g *Hosted) Status(ctx context.Context) (*Status, error) {
	f, s, err := g.read(ctx)
	if err != nil {
		return nil, err
	}
	defer s.set.close()
	st := &Status{Group: f.Group, Kernel: true}
	running, err := g.group.Running(f.Group)
	if err != nil {
		return nil, err
	}
	st.LVs = kernelStatus(running)
	for _, pv := range f.PVs {
		if pv == nil {
			st.PVs = append(st.PVs, PVStatus{Path: UnknownDevice, Missing: true})
		} else {
			st.PVs = append(st.PVs, describeState(pv.State()))
		}
	}
	return st, nil
}

// kernelStatus translates what the kernel runs of a group.
func kernelStatus(running map[string]hostlvm.LV) map[string]LVStatus {
	out := map[string]LVStatus{}
	for name, lv := range running {
		s := LVStatus{
			Opens: lv.Info.Opens, ReadOnly: lv.Info.ReadOnly, Suspended: lv.Info.Suspended, Merging: lv.Merging, File: lv.Path,
		}
		if c := lv.Cow; c != nil {
			s.Cow = &CowStatus{
				Allocated: volume.Sectors(c.Allocated), Total: volume.Sectors(c.Total), Metadata: volume.Sectors(c.Metadata),
				Invalid: c.Invalid, MergeFailed: c.MergeFailed, Delayed: c.Delayed, Reason: c.Reason,
				OnFull:    string(volume.OnFullInvalidate), // the kernel knows nothing else
				Threshold: c.Threshold, Short: c.Short, FullIn: c.FullIn,
			}
		}
		out[name] = s
	}
	return out
}

// hostResult translates what lvm2's side says.
func hostResult(r *hostlvm.Result, err error) (*Result, error) {
	if r == nil {
		return nil, err
	}
	return &Result{Names: r.Names, Notes: r.Notes}, err
}

// absolutePVs makes the paths of PVs independent of the working directory.
func absolutePVs(ranges []volume.PVRange) []volume.PVRange {
	ranges = slices.Clone(ranges)
	for i, r := range ranges {
		if r.PV != "" && r.PV[0] != '@' {
			ranges[i].PV = absolute(r.PV)
		}
	}
	return ranges
}

// CreateLV implements Group.
func (g *Hosted) CreateLV(ctx context.Context, spec volume.LVSpec) (*Result, error) {
	spec.PVs = absolutePVs(spec.PVs)
	return hostResult(g.group.CreateLV(ctx, spec))
}

// CreateSnapshots implements Group.
func (g *Hosted) CreateSnapshots(ctx context.Context, specs []volume.SnapshotSpec) (*Result, error) {
	return hostResult(g.group.CreateSnapshots(ctx, withAbsolutePVs(specs)))
}

// CreateSnapshotsWhile implements Group.
func (g *Hosted) CreateSnapshotsWhile(ctx context.Context, specs []volume.SnapshotSpec, limit time.Duration, held func(context.Context) error) (*Result, error) {
	return hostResult(g.group.CreateSnapshotsWhile(ctx, withAbsolutePVs(specs), limit, held))
}

func withAbsolutePVs(specs []volume.SnapshotSpec) []volume.SnapshotSpec {
	specs = slices.Clone(specs)
	for i := range specs {
		specs[i].PVs = absolutePVs(specs[i].PVs)
	}
	return specs
}

// RemoveLVs implements Group.
func (g *Hosted) RemoveLVs(ctx context.Context, names []string) (*Result, error) {
	return hostResult(g.group.RemoveLVs(ctx, names))
}

// ExtendLV implements Group.
func (g *Hosted) ExtendLV(ctx context.Context, spec volume.ExtendSpec) (*Result, error) {
	spec.PVs = absolutePVs(spec.PVs)
	return hostResult(g.group.ExtendLV(ctx, spec))
}

// SetReadOnly implements Group.
func (g *Hosted) SetReadOnly(ctx context.Context, name string, readOnly bool) (*Result, error) {
	return hostResult(g.group.SetReadOnly(ctx, name, readOnly))
}

// ChangeTags implements Group.
func (g *Hosted) ChangeTags(ctx context.Context, name string, add, remove []string) (*Result, error) {
	return hostResult(g.group.ChangeTags(ctx, name, add, remove))
}

// Activate implements Group.
func (g *Hosted) Activate(ctx context.Context, names ...string) (*Result, error) {
	return hostResult(g.group.Activate(ctx, names...))
}

// Deactivate implements Group.
func (g *Hosted) Deactivate(ctx context.Context, names ...string) (*Result, error) {
	return hostResult(g.group.Deactivate(ctx, names...))
}

// Merge implements Group. The kernel merges as fast as it can.
func (g *Hosted) Merge(ctx context.Context, spec volume.MergeSpec) (*Result, error) {
	if spec.Rate != nil {
		return nil, errs.WithHint(errs.E(errs.Unsupported, "volume group %s is run by the kernel, whose merges keep to no rate", g.name), "Leave the rate out.")
	}
	return hostResult(g.group.Merge(ctx, spec.Name))
}

// Writes implements Group: what was learnt by cowl advise --watch.
func (g *Hosted) Writes(ctx context.Context, name string) (*forecast.Pattern, error) {
	model, err := g.model(ctx)
	if err != nil {
		return nil, err
	}
	lv, err := model.FindLV(name)
	if err != nil {
		return nil, err
	}
	if s, ok := model.SnapshotOf(lv); ok {
		lv = s.Origin
	}
	if known := g.host.recall(model)[lv.ID]; known != nil {
		return known, nil
	}
	return &forecast.Pattern{}, nil
}

// Changed implements Group.
func (g *Hosted) Changed(ctx context.Context, snapshot string) (*Changes, error) {
	var c *Changes
	err := g.group.Changed(ctx, snapshot, func(of *hostlvm.Changes) func(off, length int64) error {
		c = NewChanges(of.Group, of.Snap, of.Bytes, of.Chunk)
		return c.Add
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// AddPVs implements Group.
func (g *Hosted) AddPVs(ctx context.Context, paths []string) (*Result, error) {
	return hostResult(g.group.AddPVs(ctx, absolutes(paths)))
}

// RemovePVs implements Group.
func (g *Hosted) RemovePVs(ctx context.Context, paths []string) (*Result, error) {
	return hostResult(g.group.RemovePVs(ctx, absolutes(paths)))
}

// ResizePV implements Group.
func (g *Hosted) ResizePV(ctx context.Context, path string, size int64) (*Result, error) {
	return hostResult(g.group.ResizePV(ctx, absolute(path), size))
}

func absolutes(paths []string) []string {
	var out []string
	for _, p := range paths {
		out = append(out, absolute(p))
	}
	return out
}

// RemoveGroup implements Group.
func (g *Hosted) RemoveGroup(ctx context.Context) (*Result, error) {
	return hostResult(g.group.RemoveGroup(ctx))
}

// Rehearse makes this group one in which every change is only tried, by lvm2's
// rules, and volumes are not opened. Call it before anything else.
func (g *Hosted) Rehearse() {
	g.rehearsal = true
	g.group.Rehearse()
}

// Open implements Group.
func (g *Hosted) Open(ctx context.Context, name string, readOnly bool) (block.Device, error) {
	if g.rehearsal {
		return nil, errs.E(errs.Unsupported, "nothing is opened in test mode")
	}
	return g.group.Open(ctx, name, readOnly)
}

// Close implements Group. The kernel goes on running the group.
func (g *Hosted) Close() error { return g.group.Close() }
