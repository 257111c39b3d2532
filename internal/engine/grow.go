package engine

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/snap"
	"cowl/internal/volume"
)

// Growth is how the group keeps its snapshots from overflowing. The zero value
// lets them overflow, as the kernel does.
type Growth struct {
	// Growth is for the snapshots whose tags do not say otherwise.
	volume.Growth

	// EnlargePV makes the device of a PV at least size bytes long, durably, and
	// returns how long it is then. errs.Unsupported says that it stays as it is.
	// It is called with the right to change the group held. nil: none grows.
	EnlargePV func(id volume.UUID, dev block.Device, size int64) (int64, error)

	// AllocatePV gives a range of a PV's device its place below, so that writing
	// there does not fail for lack of space. errors.ErrUnsupported says that
	// this cannot be done for the device, or is of no use. nil: for none.
	AllocatePV func(dev block.Device, off, length int64) error
}

// retryEvery is how often a request that waits for space looks for what nobody
// tells it of: space for a PV's file to grow.
const retryEvery = time.Second

// supply is what is known of the space for a snapshot's store. It is altered
// with both Group.changes and Group.mu held.
type supply struct {
	volume.Growth           // the snapshot's own
	lost          bool      // nothing keeps the store from overflowing any more
	short         string    // why it could not be extended, "" if it could or was not to
	shortBelow    bool      // that is so below the PVs, of which the metadata says nothing
	shortAt       uint64    // the metadata's number when that was found
	shortSince    time.Time // and when

	placed    int64 // bytes of the store that have their place below, see preallocate
	fillMark  int64 // bytes in use from which on it is extended
	placeMark int64 // and from which on more gets its place

	holding atomic.Int32 // requests that wait for space
}

// stuck reports whether there is no use in trying to extend the store: nothing
// has changed since it failed. The caller holds Group.mu or changes.
func (g *Group) stuck(v *vol) bool {
	s := &v.supply
	return s.short != "" && s.shortAt == g.model.Seqno &&
		(g.opts.Growth.EnlargePV == nil && !s.shortBelow || time.Since(s.shortSince) < retryEvery)
}

// supplied gives a snapshot that is attached its growth: from then on a write
// that its store has no room for asks for more. The caller holds changes.
func (g *Group) supplied(model *volume.Group, v *vol) {
	lv := model.LV(v.name)
	if v.snap == nil || lv == nil {
		return
	}
	growth := lv.GrowthOf(g.opts.Growth.Growth)
	g.mu.Lock()
	v.supply.Growth = growth
	v.supply.lost, v.supply.short = false, ""
	v.family.waits.Store(v.family.mayWait())
	g.mu.Unlock()
	if v.store.Usage().Invalid {
		return
	}
	g.placeAhead(v)
	v.snap.Reserve(mustNotOverflow(growth))
	v.supply.fillMark = math.MaxInt64
	if growth.Enabled() {
		v.supply.fillMark = growth.Mark(v.base.Size()) + 1
	}
	g.watchFill(v)
}

// mustNotOverflow reports whether writes that a store has no room for wait, or
// are refused.
func mustNotOverflow(growth volume.Growth) bool {
	return growth.Enabled() || growth.OnFull != "" && growth.OnFull != volume.OnFullInvalidate
}

// resupply gives new hope to stores that could not be extended: a commit may
// have freed extents, or brought a PV. The caller holds changes.
func (g *Group) resupply() {
	g.mu.Lock()
	model := g.model
	var short []*vol
	for _, v := range g.volumes {
		if v.supply.short != "" {
			short = append(short, v)
		}
	}
	g.mu.Unlock()
	for _, v := range short {
		g.supplied(model, v)
	}
}

// watchFill has the group look at the store when it is above one of its marks.
func (g *Group) watchFill(v *vol) {
	mark := min(v.supply.fillMark, v.supply.placeMark)
	if mark == math.MaxInt64 {
		v.store.Watch(mark, nil)
		return
	}
	v.store.Watch(mark, g.lookSoon)
	g.startTending()
	if v.store.Usage().Allocated >= mark {
		g.lookSoon()
	}
}

// lookSoon wakes the goroutine that extends stores. It does not wait.
func (g *Group) lookSoon() {
	select {
	case g.low <- struct{}{}:
	default: // it is about to look
	}
}

// startTending starts the goroutine that extends stores, which is the Group's
// until it is closed.
func (g *Group) startTending() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.tends || g.closed || g.opts.Manual {
		return
	}
	g.tends = true
	g.tending.Go(func() {
		for {
			select {
			case <-g.life.Done():
				return
			case <-g.low:
				g.look(g.life)
			}
		}
	})
}

// look extends the stores that are above their thresholds, and gives those
// their next chunks' place that have few left.
func (g *Group) look(ctx context.Context) {
	if err := g.lock(ctx); err != nil {
		return // closed
	}
	defer g.unlock()
	g.mu.Lock()
	var low []*vol
	for _, v := range g.volumes {
		if g.isLow(v) || g.isThin(v) {
			low = append(low, v)
		}
	}
	g.mu.Unlock()
	slices.SortFunc(low, func(a, b *vol) int { return strings.Compare(a.name, b.name) })
	for _, v := range low {
		if g.isThin(v) {
			g.placeAhead(v)
		}
		if g.isLow(v) {
			err := g.extendStore(v, 0)
			if err != nil {
				v.supply.fillMark = math.MaxInt64 // until resupply
			}
			if err != nil && err != errLargest {
				g.opts.Log.Warn("snapshot cannot be extended", "snapshot", v.name, "err", err)
			}
		}
		g.watchFill(v)
	}
}

// placeAhead gives a store's next chunks their place while there is time. The
// caller holds changes.
func (g *Group) placeAhead(v *vol) {
	if err := g.findPlace(v, 0); err != nil {
		g.opts.Log.Warn("snapshot is short of space", "snapshot", v.name, "err", err)
	}
}

// findPlace is preallocate, and notes why it failed.
func (g *Group) findPlace(v *vol, need int64) error {
	err := g.preallocate(v, need)
	if err != nil || v.supply.shortBelow {
		g.setShort(v, err, err != nil)
	}
	return err
}

// errLargest says that a store has room for all that it may ever have to keep.
var errLargest = errs.E(errs.NoSpace, "it is as large as it can use")

// isLow reports whether a snapshot's store is to be extended, and may be. The
// caller holds mu.
func (g *Group) isLow(v *vol) bool {
	if !g.isTended(v) {
		return false
	}
	u := v.store.Usage()
	return !u.Invalid && v.supply.Exceeded(u.Allocated, u.Total)
}

// isThin reports whether a store is to be given the place of its next chunks. The
// caller holds mu or changes.
func (g *Group) isThin(v *vol) bool {
	if !g.isTended(v) {
		return false
	}
	u := v.store.Usage()
	return !u.Invalid && u.Allocated >= v.supply.placeMark
}

// isTended reports whether there is use in looking at a snapshot's store. The
// caller holds changes.
func (g *Group) isTended(v *vol) bool {
	return v.snap != nil && !v.merging && !v.supply.lost && !g.stuck(v)
}

// extendStore extends a snapshot's store as its growth says, and by what it
// needs at once. The caller holds changes.
func (g *Group) extendStore(v *vol, need int64) error {
	err := errs.E(errs.NoSpace, "it is not to be extended by itself")
	if growth := v.supply.Growth; growth.Enabled() {
		if err = g.decide(); err == nil {
			err = g.tryExtend(v, volume.GrowSpec{Name: v.name, Used: v.store.Usage().Allocated, Need: need, Growth: growth})
		}
	}
	short := err
	if err == errLargest && need == 0 {
		short = nil
	}
	g.setShort(v, short, false)
	return err
}

// setShort notes why a store gets no more space, in the group or below it; nil
// if it does. The caller holds changes.
func (g *Group) setShort(v *vol, err error, below bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := &v.supply
	s.short, s.shortBelow = "", below
	if err != nil {
		s.short, s.shortAt, s.shortSince = err.Error(), g.model.Seqno, time.Now()
	}
}

// findRoom finds so many bytes of chunks for a store: it extends it, as its growth
// says, if it is too short, and gives them their place. The caller holds changes.
func (g *Group) findRoom(v *vol, need int64) error {
	if v.store.Reach(need) > v.base.Size() {
		if err := g.extendStore(v, need); err != nil {
			return err
		}
	}
	err := g.findPlace(v, need)
	g.watchFill(v)
	return err
}

func (g *Group) tryExtend(v *vol, spec volume.GrowSpec) error {
	extents, err := g.Model().GrowExtents(spec)
	if err != nil {
		return err
	}
	if extents == 0 {
		return errLargest
	}
	model, problems := g.enlargePVs(extents)
	c, err := model.GrowCow(v.name, extents)
	if err != nil {
		return errors.Join(err, problems)
	}
	before := v.base.Size()
	if err := g.commitLonger(c.Group, v.name); err != nil {
		return err
	}
	g.opts.Log.Info("snapshot extended", "snapshot", v.name,
		"from", volume.LongSize(before), "to", volume.LongSize(v.base.Size()))
	return nil
}

// enlargePVs makes PVs longer where so many extents are not free. The model
// that it returns is good, whatever the problems.
func (g *Group) enlargePVs(need volume.Extents) (model *volume.Group, problems error) {
	model = g.Model()
	if g.opts.Growth.EnlargePV == nil {
		return model, nil
	}
	for _, pv := range model.PVs {
		dev, here := g.devs[pv.ID]
		spare := model.Spare()
		if spare >= need || !here || !pv.Allocatable() {
			continue
		}
		size, err := g.opts.Growth.EnlargePV(pv.ID, dev, model.PVSizeFor(pv, need-spare).Bytes())
		if err == nil {
			var c *volume.Change
			if c, err = model.GrowPV(pv.Key, volume.Sectors(size>>9)); err == nil {
				model = c.Group
			}
		}
		if err != nil && !errs.Is(err, errs.Unsupported) {
			problems = errors.Join(problems, err)
		}
	}
	return model, problems
}

// holdUp is one request's wait for space.
type holdUp struct {
	since  time.Time // when it began, zero until then
	merges bool      // the request is a merge's, which has time
}

// roomFor finds room for a request that found none, so that it can be tried
// again, or says why there will be none. The request holds no lock: whoever has
// the right to change the group may be waiting for requests to finish.
func (g *Group) roomFor(ctx context.Context, f *family, no *snap.NoRoom, h *holdUp) error {
	for {
		moved := g.nextMove()
		v, patience, err := g.tryRoom(ctx, f, no, h)
		switch {
		case err != nil && g.isClosed():
			return errs.E(errs.Conflict, "volume group %s is closed", g.name)
		case v == nil || err != nil:
			return err
		}
		v.supply.holding.Add(1)
		select {
		case <-moved:
		case <-ctx.Done():
		case <-time.After(min(retryEvery, patience)):
		}
		v.supply.holding.Add(-1)
	}
}

// tryRoom extends the stores that lack room, or does what their policies say.
// If the request has to wait, it returns for which snapshot and for how long at
// most.
func (g *Group) tryRoom(ctx context.Context, f *family, no *snap.NoRoom, h *holdUp) (*vol, time.Duration, error) {
	if err := g.refusal(f, no, h); err != nil {
		return nil, 0, err
	}
	if err := g.lock(ctx); err != nil {
		return nil, 0, err
	}
	defer g.unlock()
	for _, v := range f.lacking(no) {
		free := v.store.Free() * v.store.ChunkBytes()
		if v.snap == nil || v.store.Usage().Invalid || free > 0 && free >= no.Need {
			continue // somebody was faster
		}
		err := g.findRoom(v, no.Need)
		if err == nil {
			continue
		}
		switch patience := v.patience(h); {
		case patience > 0:
			if h.since.IsZero() {
				h.since = time.Now()
				g.opts.Log.Warn("a write waits for space", "snapshot", v.name, "why", err)
			}
			return v, patience, nil
		case v.supply.OnFull == volume.OnFullReadOnly:
			return nil, 0, g.errFull(v)
		}
		g.giveUp(v, err)
	}
	return nil, 0, nil
}

// refusal is the quick answer to a write where nothing has changed since the
// last one was refused.
func (g *Group) refusal(f *family, no *snap.NoRoom, h *holdUp) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, v := range f.lacking(no) {
		if v.supply.OnFull == volume.OnFullReadOnly && !v.merging && !h.merges && g.stuck(v) {
			return g.errFull(v)
		}
	}
	return nil
}

// patience returns how long a request may wait for space yet.
func (v *vol) patience(h *holdUp) time.Duration {
	switch {
	case v.supply.OnFull == volume.OnFullHold && h.since.IsZero():
		return v.supply.Hold
	case v.supply.OnFull == volume.OnFullHold:
		return v.supply.Hold - time.Since(h.since)
	case v.supply.OnFull == volume.OnFullReadOnly && h.merges:
		return math.MaxInt64
	}
	return 0
}

// giveUp lets a snapshot overflow, with the next write that it has no room for.
func (g *Group) giveUp(v *vol, why error) {
	g.opts.Log.Error("snapshot overflows", "snapshot", v.name, "why", why)
	g.mu.Lock()
	v.supply.lost = true
	g.mu.Unlock()
	v.snap.Reserve(false)
}

// errFull is what a write gets whose snapshot must live.
func (g *Group) errFull(v *vol) error {
	vg := g.name
	if v.supply.shortBelow {
		return errs.WithHint(errs.E(errs.NoSpace, "Snapshot %s/%s can take no more: %s. Writes that it would have to copy for are refused.", vg, v.name, v.supply.short),
			"Make room in that file system, or remove the snapshot (cowl lvremove %s/%s).", vg, v.name)
	}
	return errs.WithHint(errs.E(errs.NoSpace, "Snapshot %s/%s is full: %s. Writes that it would have to copy for are refused.", vg, v.name, strings.TrimSuffix(v.supply.short, ".")),
		"Give it space (cowl lvextend %[1]s/%[2]s, cowl vgextend %[1]s), or remove it.", vg, v.name)
}

// lacking returns the snapshots that lack room. The caller holds Group.mu or
// changes.
func (f *family) lacking(no *snap.NoRoom) []*vol {
	var out []*vol
	for _, v := range f.snaps {
		if slices.ContainsFunc(no.Snaps, func(n *snap.Snapshot) bool { return n.Store() == v.store }) {
			out = append(out, v)
		}
	}
	return out
}

// nextMove returns a channel that is closed when the group's metadata changes
// next, or the group is closed.
func (g *Group) nextMove() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.moved
}

// hasMoved tells those who wait for a change. The caller holds mu.
func (g *Group) hasMoved() {
	close(g.moved)
	g.moved = make(chan struct{})
}
