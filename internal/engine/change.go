package engine

import (
	"context"
	"errors"
	"slices"

	"cowl/internal/errs"
	"cowl/internal/volume"
)

// commit makes next the group's metadata on every PV. The caller holds
// changes, and has made durable what the metadata refers to.
func (g *Group) commit(next *volume.Group) error {
	if err := g.store.Precommit(next); err != nil {
		return err
	}
	return g.commitStaged(nil)
}

// commitStaged makes what was precommitted the group's metadata, and lets
// alter change the state in memory in the same instant.
//
// A commit that fails may have reached a PV all the same. Then the old
// metadata is written once more, with a higher sequence number. If that fails
// as well, the group is undecided: whoever reads the disks may find either.
func (g *Group) commitStaged(alter func()) error {
	err := g.store.Commit()
	if err == nil {
		g.adopt(alter)
		return nil
	}
	old := g.store.Precommit(g.Model())
	if old == nil {
		old = g.store.Commit()
	}
	if old == nil {
		g.adopt(nil)
		return err
	}
	g.mu.Lock()
	g.undecided = true
	g.mu.Unlock()
	return errs.WithHint(errors.Join(err, old), "the change may still be found on the disks: do it again, or undo it, when they can be written")
}

// adopt takes over what was committed.
func (g *Group) adopt(alter func()) {
	g.mu.Lock()
	g.model, g.undecided = g.store.Group(), false
	if alter != nil {
		alter()
	}
	g.hasMoved()
	g.mu.Unlock()
	for _, b := range g.limbo {
		b.detach()
	}
	g.limbo = nil
	g.resupply()
}

// decide sees to it that the disks say what the group is. Before that nobody
// opens a volume or changes the group: a snapshot or a merge that may be there
// after a crash would not know of what is written now, and extents that are
// free by one metadata are not by the other. The caller holds changes.
func (g *Group) decide() error {
	g.mu.Lock()
	undecided := g.undecided
	g.mu.Unlock()
	if !undecided {
		return nil
	}
	return g.commit(g.Model())
}

// warn adds what the store has to say about changes that succeeded.
func (g *Group) warn(res *Result) *Result {
	res.Notes = append(res.Notes, g.store.Warnings()...)
	return res
}

// RemoveLVs removes volumes, an origin with its snapshots, all in one commit.
// One that is open is errs.Busy, and none is removed.
func (g *Group) RemoveLVs(ctx context.Context, names []string) (*Result, error) {
	if err := g.begin(ctx); err != nil {
		return nil, err
	}
	defer g.unlock()
	next, res := g.Model(), &Result{}
	for _, name := range names {
		if slices.Contains(res.Names, name) { // it went with its origin
			continue
		}
		c, err := g.removeFrom(next, name)
		if err != nil {
			return nil, err
		}
		next = c.Group
		res.Names = append(res.Names, c.LVs...)
		res.Notes = append(res.Notes, c.Notes...)
	}
	if len(res.Names) == 0 {
		return res, nil
	}
	if err := g.remove(next, res.Names); err != nil {
		return nil, err
	}
	return g.warn(res), nil
}

// removeFrom removes a volume from the model. A merging snapshot can go only
// if its store is invalid, so that it can never be merged.
func (g *Group) removeFrom(next *volume.Group, name string) (*volume.Change, error) {
	g.mu.Lock()
	v := g.volumes[name]
	dead := v != nil && v.merging && v.store.Usage().Invalid
	g.mu.Unlock()
	if dead {
		return next.FinishMerge(name)
	}
	return next.RemoveLV(name)
}

// remove commits next, which lacks the named volumes, and takes them out of
// use. First nobody can open them any more; then they go from the metadata,
// while their origins still copy out for them; then they are detached.
func (g *Group) remove(next *volume.Group, names []string) error {
	gone, err := g.hide(names)
	if err != nil {
		return err
	}
	for _, v := range gone {
		if v == v.family.top {
			v.family.stopMerge()
		}
	}
	if err := g.commit(next); err != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, v := range gone {
			g.volumes[v.name] = v
			g.startMerging(v.family)
		}
		return err
	}
	for _, v := range gone {
		g.drop(v)
	}
	return nil
}

// hide takes the active ones among the named volumes off the list of those
// that can be opened, unless one of them is open.
func (g *Group) hide(names []string) ([]*vol, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var gone []*vol
	for _, name := range names {
		v := g.volumes[name]
		if v == nil {
			continue
		}
		if v.opens > 0 {
			return nil, errs.E(errs.Busy, "Logical volume %s/%s in use.", g.model.Name, name)
		}
		gone = append(gone, v)
	}
	for _, v := range gone {
		delete(g.volumes, v.name)
	}
	return gone, nil
}

// drop takes a removed volume out of its family, or its family down with it.
func (g *Group) drop(v *vol) {
	f := v.family
	if v == f.top {
		g.mu.Lock()
		g.withdraw(f)
		g.mu.Unlock()
		g.discard(f)
		return
	}
	if v.snap != nil {
		f.origin.Detach(v.snap)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	f.snaps = slices.DeleteFunc(f.snaps, func(s *vol) bool { return s == v })
	f.waits.Store(f.mayWait())
	if f.merge != nil && f.merge.vol == v {
		f.merge = nil
	}
}

// discard tears down a family that is removed, or about to be. Nobody needs
// what cannot be flushed of it.
func (g *Group) discard(f *family) {
	if err := f.tearDown(); err != nil {
		g.opts.Log.Warn("flush of a removed volume", "volume", f.top.name, "err", err)
	}
}

// SetReadOnly changes a volume's permission, also while it is open.
func (g *Group) SetReadOnly(ctx context.Context, name string, readOnly bool) (*Result, error) {
	if err := g.begin(ctx); err != nil {
		return nil, err
	}
	defer g.unlock()
	c, err := g.Model().SetReadOnly(name, readOnly)
	if err != nil {
		return nil, err
	}
	if err := g.commit(c.Group); err != nil {
		return nil, err
	}
	if v := g.find(name); v != nil {
		v.setReadOnly(readOnly)
	}
	return g.warn(&Result{Names: c.LVs, Notes: c.Notes}), nil
}

// find returns an active volume, nil if it is not.
func (g *Group) find(name string) *vol {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.volumes[name]
}

// ExtendLV makes a volume or a snapshot's store larger, also while it is open.
// It can be used in its new size once the metadata that says so is committed.
func (g *Group) ExtendLV(ctx context.Context, spec volume.ExtendSpec) (*Result, error) {
	if err := g.begin(ctx); err != nil {
		return nil, err
	}
	defer g.unlock()
	c, err := g.Model().ExtendLV(spec)
	if err != nil {
		return nil, err
	}
	if err := g.commitLonger(c.Group, spec.Name); err != nil {
		return nil, err
	}
	return g.warn(&Result{Names: c.LVs, Notes: c.Notes}), nil
}

// commitLonger commits metadata in which a volume is longer, and lets it be so.
func (g *Group) commitLonger(next *volume.Group, name string) error {
	longer, err := g.mapExtents(next, next.LV(name))
	if err != nil {
		return err
	}
	if err := g.commit(next); err != nil {
		return err
	}
	if v := g.find(name); v != nil {
		v.base.dev.Store(longer)
		if v.store != nil {
			v.store.Grow()
			g.supplied(g.Model(), v)
		}
	}
	return nil
}

// ChangeTags adds tags to a volume and removes others. Those of
// cowl's own count from then on.
func (g *Group) ChangeTags(ctx context.Context, name string, add, remove []string) (*Result, error) {
	if err := g.begin(ctx); err != nil {
		return nil, err
	}
	defer g.unlock()
	c, err := g.Model().ChangeTags(name, add, remove)
	if err != nil {
		return nil, err
	}
	if err := g.commit(c.Group); err != nil {
		return nil, err
	}
	if v := g.find(name); v != nil {
		g.supplied(g.Model(), v)
		g.paceMerge(v)
	}
	return g.warn(&Result{Names: c.LVs, Notes: c.Notes}), nil
}
