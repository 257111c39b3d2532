package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/snap"
	"cowl/internal/volume"
)

// family is an active volume with its snapshots, which exist only together: a
// write to the origin has to find every store it must copy to.
type family struct {
	top    *vol
	origin *snap.Origin
	snaps  []*vol // in the metadata's order; guarded by Group.mu

	held  bool   // activated until further notice, not for its openers; guarded by Group.mu
	merge *merge // nil unless a snapshot is merging; guarded by Group.mu

	waits atomic.Bool // see mayWait
}

// mayWait reports whether writes may have to wait for space. The caller holds
// Group.mu.
func (f *family) mayWait() bool {
	return slices.ContainsFunc(f.snaps, func(v *vol) bool { return v.supply.OnFull == volume.OnFullHold })
}

// opens returns how often the family is open. The caller holds Group.mu.
func (f *family) opens() int {
	n := f.top.opens
	for _, v := range f.snaps {
		n += v.opens
	}
	return n
}

// Activate makes volumes available; no names means all that a person sees. A
// snapshot comes with its origin and an origin with its snapshots. What fails
// does not keep the others from being activated: there may be both a result
// and an error.
func (g *Group) Activate(ctx context.Context, names ...string) (*Result, error) {
	if err := g.lock(ctx); err != nil {
		return nil, err
	}
	defer g.unlock()
	model := g.Model()
	if len(names) == 0 {
		for _, lv := range model.Visible() {
			names = append(names, lv.Name)
		}
		g.mu.Lock()
		g.whole = true
		g.mu.Unlock()
	}
	res := &Result{}
	var problems []error
	for _, name := range names {
		if _, err := g.activate(name, true); err != nil {
			problems = append(problems, err)
			continue
		}
		res.Names = append(res.Names, name)
	}
	return res, errors.Join(problems...)
}

// topOf returns the volume whose family an LV is in.
func topOf(model *volume.Group, name string) (*volume.LV, error) {
	lv, err := model.FindLV(name)
	if err != nil {
		return nil, err
	}
	if s, ok := model.SnapshotOf(lv); ok {
		return s.Origin, nil
	}
	if !model.IsVisible(lv) {
		return nil, errs.E(errs.Unsupported, "Logical volume %s/%s is internal to another volume.", model.Name, name)
	}
	return lv, nil
}

// activate returns the active family of a volume, held if hold says so. The
// caller holds changes.
func (g *Group) activate(name string, hold bool) (*family, error) {
	model := g.Model()
	top, err := topOf(model, name)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	f := g.families[top.Name]
	if f != nil {
		f.held = f.held || hold
	}
	g.mu.Unlock()
	if f != nil {
		return f, nil
	}
	if f, err = g.build(model, top); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	f.held = hold
	g.publish(f)
	g.startMerging(f)
	g.startWatching()
	return f, nil
}

// publish makes a family's volumes findable. The caller holds mu.
func (g *Group) publish(f *family) {
	g.families[f.top.name] = f
	g.volumes[f.top.name] = f.top
	for _, v := range f.snaps {
		g.volumes[v.name] = v
	}
}

// withdraw undoes publish. The caller holds mu.
func (g *Group) withdraw(f *family) {
	delete(g.families, f.top.name)
	delete(g.volumes, f.top.name)
	for _, v := range f.snaps {
		delete(g.volumes, v.name)
	}
}

// build makes a family's stack. It fails as a whole if one of the stores
// cannot be read: were the origin written without it, the snapshot would later
// show, as if they were its own, data that it was to be kept from.
func (g *Group) build(model *volume.Group, top *volume.LV) (*family, error) {
	data, err := g.newBase(model, top)
	if err != nil {
		return nil, err
	}
	f := &family{origin: snap.NewOrigin(data, snap.OriginOptions{Manual: g.opts.Manual})}
	f.top = &vol{name: top.Name, family: f, base: data, writes: g.watch.recorder(top.ID)}
	f.top.dev, f.top.readOnly = f.origin, top.ReadOnly()
	for _, s := range model.SnapshotsOf(top) {
		if err := g.bring(f, model, s); err != nil {
			f.origin.Close()
			return nil, errs.WithHint(fmt.Errorf("snapshot %s/%s: %w", model.Name, s.Cow.Name, err),
				"if it cannot be repaired, lvremove %s/%s lets its origin be activated without it", model.Name, s.Cow.Name)
		}
	}
	return f, nil
}

// bring opens a snapshot's store and makes it one of the family.
func (g *Group) bring(f *family, model *volume.Group, s volume.Snap) error {
	cow, err := g.newBase(model, s.Cow)
	if err != nil {
		return err
	}
	v, err := g.openStore(cow, s)
	if err != nil {
		return err
	}
	if err := f.join(model, s, v); err != nil {
		return err
	}
	g.supplied(model, v)
	return nil
}

// openStore returns a snapshot that is in no family yet. That it is lost may be
// long before somebody looks at it: the log says so at once.
func (g *Group) openStore(cow *base, s volume.Snap) (*vol, error) {
	store, err := snap.Open(cow, snap.Options{ChunkBytes: s.Segment.ChunkSize.Bytes()})
	if err != nil {
		return nil, err
	}
	store.OnInvalid(func(why string) {
		g.opts.Log.Error("snapshot is lost", "snapshot", s.Cow.Name, "origin", s.Origin.Name, "why", why)
	})
	v := &vol{name: s.Cow.Name, base: cow, store: store}
	v.readOnly = s.Cow.ReadOnly()
	return v, nil
}

// join makes a snapshot one of the family: attached, or being merged.
func (f *family) join(model *volume.Group, s volume.Snap, v *vol) error {
	v.family = f
	f.snaps = append(f.snaps, v)
	if s.Segment.Merging {
		v.merging, v.dev = true, failing{f.errMerging(v), model.ExtentBytes(s.Size())}
		f.merge = &merge{vol: v}
		f.merge.pace.Set(s.Cow.MergeRate())
		if v.store.Usage().Invalid {
			return nil // it can never be merged; Status says so
		}
		f.merge.started = true
		return f.showMerged(f.merge)
	}
	return f.attach(v, model.ExtentBytes(s.Size()))
}

// attach makes the origin's content of this instant readable as v.
func (f *family) attach(v *vol, size int64) error {
	// Permission is the volume's matter, where it can be changed, not snap's.
	n, err := f.origin.Attach(v.store, size, false)
	if err == nil {
		v.snap, v.dev = n, n
	}
	return err
}

// Deactivate takes volumes away; no names means all. A family that is open is
// errs.Busy; what fails does not keep the others.
func (g *Group) Deactivate(ctx context.Context, names ...string) (*Result, error) {
	if err := g.lock(ctx); err != nil {
		return nil, err
	}
	defer g.unlock()
	res := &Result{}
	var problems []error
	if len(names) == 0 {
		g.mu.Lock()
		g.whole = false
		for _, lv := range g.model.Visible() {
			if g.families[lv.Name] != nil {
				names = append(names, lv.Name)
			}
		}
		g.mu.Unlock()
	}
	model := g.Model()
	for _, name := range names {
		top, err := topOf(model, name)
		if err == nil {
			err = g.deactivate(top.Name)
		}
		if err != nil {
			problems = append(problems, err)
			continue
		}
		res.Names = append(res.Names, name)
	}
	return res, errors.Join(problems...)
}

// deactivate takes a family away unless it is open. If it cannot be flushed it
// stays. The caller holds changes.
func (g *Group) deactivate(top string) error {
	g.mu.Lock()
	f := g.families[top]
	if f == nil {
		g.mu.Unlock()
		return nil
	}
	if f.opens() > 0 {
		g.mu.Unlock()
		return errs.E(errs.Busy, "Logical volume %s/%s in use.", g.model.Name, f.inUse())
	}
	g.withdraw(f)
	g.mu.Unlock()
	f.stopMerge()
	if err := f.flush(); err != nil {
		g.mu.Lock()
		g.publish(f)
		g.startMerging(f)
		g.mu.Unlock()
		return fmt.Errorf("flush %s/%s: %w", g.Model().Name, top, err)
	}
	return f.tearDown()
}

// inUse names a volume of the family that is open. The caller holds Group.mu.
func (f *family) inUse() string {
	for _, v := range f.snaps {
		if v.opens > 0 {
			return v.name
		}
	}
	return f.top.name
}

// flush makes durable what any of the family's volumes has completed.
func (f *family) flush() error {
	problems := []error{f.origin.Flush()}
	for _, v := range f.snaps {
		if v.snap != nil && !v.store.Usage().Invalid {
			problems = append(problems, v.snap.Flush())
		}
	}
	return errors.Join(problems...)
}

// tearDown ends the use of a family that nobody can find any more. Requests in
// flight are finished and flushed; what handles there are fail from then on.
func (f *family) tearDown() error {
	all := append([]*vol{f.top}, f.snaps...)
	for _, v := range all {
		v.suspend()
	}
	err := f.flush()
	for _, v := range all {
		v.dev = failing{errs.E(errs.Conflict, "volume %s was deactivated", v.name), v.dev.Size()}
		v.resume()
	}
	return errors.Join(err, f.origin.Close())
}

// release counts an opener off. It may be the last that the deactivation of the
// family, or a merge, has waited for.
func (g *Group) release(v *vol) error {
	g.mu.Lock()
	v.opens--
	waited := v.family.mergeDue() || v.family.opens() == 0 && !v.family.held
	g.mu.Unlock()
	if !waited {
		return nil
	}
	if err := g.lock(context.Background()); err != nil {
		return nil // closed meanwhile, with all that was to be done
	}
	defer g.unlock()
	return g.settle(v.family)
}

// settle does what waited for a user to go, if that is still the state of
// things. The caller holds changes.
func (g *Group) settle(f *family) error {
	g.mu.Lock()
	present := g.families[f.top.name] == f
	deactivate := present && f.opens() == 0 && !f.held
	begin := present && !deactivate && f.mergeDue()
	if deactivate {
		g.withdraw(f)
	}
	g.mu.Unlock()
	switch {
	case deactivate:
		f.stopMerge()
		return f.tearDown()
	case begin:
		return g.beginDelayed(f)
	}
	return nil
}

// failing is what is left of a device that there is no more.
type failing struct {
	err  error
	size int64
}

func (d failing) ReadAt([]byte, int64) (int, error)                   { return 0, d.err }
func (d failing) WriteAt([]byte, int64) (int, error)                  { return 0, d.err }
func (d failing) Flush() error                                        { return d.err }
func (d failing) Discard(int64, int64) error                          { return d.err }
func (d failing) WriteZeroes(int64, int64) error                      { return d.err }
func (d failing) Extents(int64, int64) iter.Seq2[block.Extent, error] { return block.NoExtents(d.err) }
func (d failing) Size() int64                                         { return d.size }
func (d failing) Caps() block.Caps                                    { return block.Caps{BlockSize: block.SectorSize} }
func (d failing) Close() error                                        { return nil }
