package engine

import (
	"context"
	"fmt"

	"cowl/internal/errs"
	"cowl/internal/snap"
	"cowl/internal/volume"
)

// merge is a snapshot on its way back into its origin. Its fields are altered
// with both Group.changes and Group.mu held.
type merge struct {
	vol     *vol  // the snapshot
	started bool  // the origin shows the merged content
	err     error // why the end of the merge could not be committed
	pace    snap.Pace

	// Of the goroutine that moves it, nil while there is none. It is the
	// Group's, and ends when the merge does, or at the next step after cancel.
	cancel context.CancelFunc
	done   chan struct{}
	wait   holdUp // for room in the siblings; of whoever steps
}

// mergeDue reports whether a merge has waited for users and has none any
// more. The caller holds Group.mu.
func (f *family) mergeDue() bool {
	m := f.merge
	return m != nil && !m.started && !m.vol.store.Usage().Invalid && f.usersBefore(m.vol) == ""
}

// usersBefore says who keeps a snapshot from being merged: users of its origin,
// whose content would change under them, or its own. Siblings keep what they
// show, and do not count. The caller holds Group.mu.
func (f *family) usersBefore(v *vol) string {
	switch {
	case f.top.opens > 0:
		return "origin"
	case v.opens > 0:
		return "snapshot"
	}
	return ""
}

// Merge marks a snapshot as merging and begins to merge it; when that is done
// the snapshot is removed. While the origin or the snapshot is open the
// beginning is delayed until their last user has closed them. Of an origin
// that is not active it is delayed until the next activation.
//
// Of a snapshot that is being merged it changes the rate, if the spec has one.
func (g *Group) Merge(ctx context.Context, spec volume.MergeSpec) (*Result, error) {
	if err := g.begin(ctx); err != nil {
		return nil, err
	}
	defer g.unlock()
	snapshot := spec.Name
	c, err := g.Model().StartMerge(spec)
	if err != nil {
		return nil, err
	}
	res := &Result{Names: c.LVs, Notes: c.Notes}
	v := g.find(snapshot)
	if _, already := mergingSnap(g.Model(), snapshot); already {
		if err := g.commit(c.Group); err != nil {
			return nil, err
		}
		g.paceMerge(v)
		return g.warn(res), nil
	}
	if v == nil {
		res.Notes = append(res.Notes, mergeNote(c.Group, snapshot, "on next activation of %s."))
		if err := g.commit(c.Group); err != nil {
			return nil, err
		}
		return g.warn(res), nil
	}
	open, err := g.mergeActive(v, c.Group)
	switch {
	case err != nil:
		return nil, err
	case open != "":
		res.Notes = append(res.Notes,
			fmt.Sprintf("Delaying merge since %s is open.", open),
			mergeNote(c.Group, snapshot, "when the last user of %[1]s has closed it, or on next activation of %[1]s."))
	default:
		res.Notes = append(res.Notes, fmt.Sprintf("Merging of volume %s/%s started.", c.Group.Name, snapshot))
	}
	return g.warn(res), nil
}

// mergingSnap returns a snapshot that is being merged, or is to be.
func mergingSnap(model *volume.Group, name string) (volume.Snap, bool) {
	s, ok := model.SnapshotOf(model.LV(name))
	return s, ok && s.Segment.Merging
}

// paceMerge has a merge keep to the rate that the metadata says, if v is the
// snapshot of one.
func (g *Group) paceMerge(v *vol) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if v == nil || v.family.merge == nil || v.family.merge.vol != v {
		return
	}
	if lv := g.model.LV(v.name); lv != nil {
		v.family.merge.pace.Set(lv.MergeRate())
	}
}

// mergeNote says when a delayed merge will happen, in LVM2's words.
func mergeNote(model *volume.Group, snapshot, when string) string {
	s, _ := model.SnapshotOf(model.LV(snapshot))
	return fmt.Sprintf("Merging of snapshot %s/%s will occur ", model.Name, snapshot) +
		fmt.Sprintf(when, model.Name+"/"+s.Origin.Name)
}

// mergeActive commits the beginning of the merge of an active snapshot, and
// begins it unless somebody has it or its origin open; then open says which.
//
// The origin is suspended over all of it, so that nobody who opens it
// meanwhile can write what the merge then takes back.
func (g *Group) mergeActive(v *vol, next *volume.Group) (open string, err error) {
	f := v.family
	f.top.suspend()
	defer f.top.resume()
	f.origin.Settle() // what was written may overflow it yet
	if v.store.Usage().Invalid {
		return "", errs.E(errs.Conflict, "Unable to merge invalidated snapshot LV \"%s/%s\".", next.Name, v.name)
	}
	g.mu.Lock()
	open = f.usersBefore(v)
	v.merging, f.merge = true, &merge{vol: v}
	g.mu.Unlock()
	if err := g.commit(next); err != nil {
		g.mu.Lock()
		v.merging, f.merge = false, nil
		g.mu.Unlock()
		return "", err
	}
	g.paceMerge(v)
	if open == "" {
		err = g.beginMerge(f)
	}
	return open, err
}

// beginDelayed begins a merge if it is still due. The caller holds changes.
func (g *Group) beginDelayed(f *family) error {
	f.top.suspend()
	defer f.top.resume()
	g.mu.Lock()
	due := f.mergeDue()
	g.mu.Unlock()
	if !due {
		return nil
	}
	return g.beginMerge(f)
}

// beginMerge makes the origin show the merged content from now on. The origin
// is suspended, the snapshot has no user.
func (g *Group) beginMerge(f *family) error {
	m := f.merge
	if err := f.showMerged(m); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	m.started = true
	g.startMerging(f)
	return nil
}

// showMerged gives the store to the origin, and leaves nothing of the
// snapshot but errors.
func (f *family) showMerged(m *merge) error {
	if err := f.origin.StartMerge(m.vol.store, m.vol.dev.Size()); err != nil {
		return fmt.Errorf("merge %s into %s: %w", m.vol.name, f.top.name, err)
	}
	m.vol.snap = nil
	m.vol.swap(failing{f.errMerging(m.vol), m.vol.dev.Size()})
	return nil
}

func (f *family) errMerging(v *vol) error {
	return errs.E(errs.Conflict, "snapshot %s is being merged into %s", v.name, f.top.name)
}

// startMerging starts the goroutine of a merge that has begun. The caller
// holds changes and mu.
func (g *Group) startMerging(f *family) {
	m := f.merge
	if m == nil || !m.started || m.done != nil || g.opts.stepped {
		return
	}
	var ctx context.Context
	ctx, m.cancel = context.WithCancel(context.Background())
	m.done = make(chan struct{})
	go g.runMerge(ctx, f, m, m.done)
}

// stopMerge ends the goroutine of a merge between two steps. The caller holds
// changes, and so the goroutine cannot be about to finish.
func (f *family) stopMerge() {
	m := f.merge
	if m == nil || m.done == nil {
		return
	}
	m.cancel()
	<-m.done
	m.done = nil
}

// runMerge merges step by step, and at the end removes the snapshot. A step
// that fails ends it until the next activation; the store remembers why.
func (g *Group) runMerge(ctx context.Context, f *family, m *merge, done chan struct{}) {
	defer close(done)
	defer m.cancel()
	store, most := m.vol.store, int64(0)
	for ctx.Err() == nil {
		if step := m.pace.Step(); step != most {
			most = step
			f.origin.LimitMergeStep(step)
		}
		before := store.Count()
		if !g.step(ctx, f, m) {
			return
		}
		m.pace.Wait(ctx, int64(before-store.Count())*store.ChunkBytes())
	}
}

// step moves a merge by one step and reports whether more are to follow.
func (g *Group) step(ctx context.Context, f *family, m *merge) bool {
	left, err := f.origin.MergeStep()
	if no := snap.LacksRoom(err); no != nil { // in a sibling
		m.wait.merges = !g.opts.stepped
		if err = g.roomFor(ctx, f, no, &m.wait); err == nil || ctx.Err() != nil {
			return true
		}
	} else {
		m.wait = holdUp{}
	}
	if err != nil {
		g.opts.Log.Error("merge stopped", "snapshot", m.vol.name, "origin", f.top.name, "err", err)
		return false
	}
	if left == 0 {
		g.finishMerge(ctx, f, m)
		return false
	}
	return true
}

// finishMerge removes a snapshot of which nothing is left to merge. Until the
// commit a crash leads to another activation that finds nothing left.
func (g *Group) finishMerge(ctx context.Context, f *family, m *merge) {
	if err := g.lock(ctx); err != nil {
		return // stopped
	}
	defer g.unlock()
	c, err := g.Model().FinishMerge(m.vol.name)
	if err == nil {
		err = g.commit(c.Group)
	}
	if err == nil {
		err = f.origin.FinishMerge()
	}
	if err == nil {
		_, err = g.hide([]string{m.vol.name})
	}
	if err != nil {
		g.opts.Log.Error("merge not completed", "snapshot", m.vol.name, "origin", f.top.name, "err", err)
		g.mu.Lock()
		m.err = err
		g.mu.Unlock()
		return
	}
	g.drop(m.vol)
	g.opts.Log.Info("merge completed", "snapshot", m.vol.name, "origin", f.top.name)
}
