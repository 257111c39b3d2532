package hostlvm

import (
	"context"
	"strings"
	"time"

	"cowl/internal/errs"
	"cowl/internal/forecast"
	"cowl/internal/volume"
)

// The kernel gives a snapshot up whose store is full. As long as a Group is open
// it therefore watches the snapshots that were made or opened by it, and has
// their stores extended in time: also those that a backup will read only when it
// has read others.

// kept is a snapshot that is watched. Its fields are of the one goroutine that
// does so, but for those that Group.mu guards.
type kept struct {
	lv     *volume.LV
	growth volume.Growth

	looked time.Time
	used   int64   // bytes, when it was looked at last
	pace   float64 // bytes a second that it has filled by lately
	warned bool
	pause  time.Time // before then it is not tried to extend it

	fill  forecast.Fill // guarded by Group.mu
	total int64         // guarded by Group.mu; bytes
	short string        // guarded by Group.mu: why it could not be extended
}

const (
	// watchEvery is how often a store's usage is looked at. The look is one ioctl.
	watchEvery = 200 * time.Millisecond
	// ahead is how far ahead of a store that fills quickly one has to be: until
	// the next look, and until lvextend has done its work.
	ahead = 3 * time.Second
	// fading is by how much less a burst counts with each look: half after 1.3 s.
	fading = 0.9
	// retry is after how long it is tried again to extend a store that could not
	// be.
	retry = 5 * time.Second
)

// ourTags is what the tags of snapshots that cowl made begin with. Others' are
// left alone.
const ourTags = "cowl."

// growthOf says how a snapshot's store is kept from overflowing: not at all if it
// is not one that cowl made.
func (g *Group) growthOf(lv *volume.LV) volume.Growth {
	for _, tag := range lv.Tags {
		if strings.HasPrefix(tag, ourTags) {
			return lv.GrowthOf(g.o.Growth)
		}
	}
	return volume.Growth{}
}

// keep watches a snapshot from now on, until it is gone or the group is closed.
func (g *Group) keep(lv *volume.LV) {
	growth := g.growthOf(lv)
	if !growth.Enabled() {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.kept[lv.Name] != nil || g.closed {
		return
	}
	g.kept[lv.Name] = &kept{lv: lv, growth: growth}
	if g.stop == nil {
		ctx, cancel := context.WithCancel(context.Background())
		g.stop = cancel
		g.watching.Go(func() { g.watch(ctx) })
	}
}

// Close ends the watching.
func (g *Group) Close() error {
	g.mu.Lock()
	g.closed = true
	if g.stop != nil {
		g.stop()
	}
	g.mu.Unlock()
	g.watching.Wait()
	return nil
}

// watch looks at all snapshots that are kept, over and over.
func (g *Group) watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, k := range g.allKept() {
			if ctx.Err() == nil && !g.look(ctx, k) {
				g.mu.Lock()
				delete(g.kept, k.lv.Name)
				g.mu.Unlock()
			}
		}
	}
}

func (g *Group) allKept() (all []*kept) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, k := range g.kept {
		all = append(all, k)
	}
	return all
}

// look looks at a snapshot once, and extends its store if that is due. It reports
// whether there is anything left to watch. Whoever reads the snapshot finds out by
// its status what became of it.
func (g *Group) look(ctx context.Context, k *kept) bool {
	cow, err := g.usage(k.lv)
	if err != nil || cow.Invalid {
		return errs.Is(err, errs.NotFound) && g.comesBack(ctx, k)
	}
	now, used, total := time.Now(), cow.Allocated*512, cow.Total*512
	k.note(now, used)
	g.mu.Lock()
	k.fill.Add(now, used)
	k.total = total
	g.mu.Unlock()
	soon := int64(k.pace * ahead.Seconds())
	if !k.growth.Exceeded(used+soon, total) || now.Before(k.pause) {
		return true
	}
	more, err := g.extend(ctx, k, used, soon)
	if err != nil {
		if _, gone := g.usage(k.lv); errs.Is(gone, errs.NotFound) {
			return false // it was removed meanwhile
		}
		k.pause = time.Now().Add(retry)
		if !k.warned {
			k.warned = true
			g.o.Log.Warn("a snapshot's store could not be extended; it is tried again", "snapshot", g.full(k.lv.Name), "err", err)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if k.short = ""; err != nil {
		k.short = err.Error()
	}
	return more || err != nil
}

// comesBack reports whether a snapshot without a device is in the metadata yet:
// one that is deactivated for a while.
func (g *Group) comesBack(ctx context.Context, k *kept) bool {
	model, err := g.o.Read(ctx)
	if err != nil {
		return true
	}
	lv := model.LV(k.lv.Name)
	return lv != nil && lv.ID == k.lv.ID
}

// note takes the pace down.
func (k *kept) note(now time.Time, used int64) {
	k.pace *= fading
	if past := now.Sub(k.looked); !k.looked.IsZero() && past > 0 && used > k.used {
		k.pace = max(k.pace, float64(used-k.used)/past.Seconds())
	}
	k.looked, k.used = now, used
}

// extend extends a store of which so much is in use, and so much will be before
// it is looked at again. It reports whether it may have to be done once more.
func (g *Group) extend(ctx context.Context, k *kept, used, soon int64) (more bool, err error) {
	model, err := g.o.Read(ctx)
	if err != nil {
		return false, err
	}
	extents, err := model.GrowExtents(volume.GrowSpec{Name: k.lv.Name, Used: used, Need: soon, Growth: k.growth})
	if err != nil || extents == 0 {
		return false, err // as large as can be of use
	}
	if extents = min(extents, model.Spare()); extents == 0 {
		return false, errs.E(errs.NoSpace, "volume group %s has no free extents", g.name)
	}
	_, err = g.ExtendLV(ctx, volume.ExtendSpec{Name: k.lv.Name, Size: volume.Size{Extents: extents}, Relative: true})
	if err == nil {
		g.o.Log.Info("a snapshot's store was extended", "snapshot", g.full(k.lv.Name), "by", model.ExtentBytes(extents))
	}
	return err == nil, err
}

// describe adds what is known from watching. The caller holds mu.
func (k *kept) describe(c *Cow) {
	c.Threshold, c.Short = k.growth.Threshold, k.short
	if d, known := k.fill.TimeToFull(k.total); known && !c.Invalid {
		c.FullIn = &d
	}
}
