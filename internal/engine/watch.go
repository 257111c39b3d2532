package engine

import (
	"sync"
	"time"

	"cowl/internal/forecast"
	"cowl/internal/volume"
)

// watcher learns how volumes are written to and how stores fill, for as long
// as the group is open: what one activation taught is there in the next.
//
// Only time counts in which a volume is open. Of one that nobody can write to,
// nothing could be learnt but that.
type watcher struct {
	stop chan struct{} // nil until there is something to watch; guarded by Group.changes
	done chan struct{}

	mu    sync.Mutex
	last  time.Time                  // a slot ended then
	known map[volume.UUID]*knowledge // of origins
	news  bool                       // something was learnt that Learned was not told of
}

// knowledge is what there is to know of one volume's writes.
type knowledge struct {
	writes *forecast.Recorder
	until  time.Time
}

// tellEvery is after how many slots Learned is told of what is new.
const tellEvery = 600

// recorder returns what a volume's writes go into.
func (w *watcher) recorder(id volume.UUID) *forecast.Recorder {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.of(id).writes
}

// of returns what is known of a volume. The caller holds mu.
func (w *watcher) of(id volume.UUID) *knowledge {
	k := w.known[id]
	if k == nil {
		k = &knowledge{writes: new(forecast.Recorder)}
		w.known[id] = k
	}
	return k
}

// remember takes over what an earlier process learnt.
func (w *watcher) remember(known map[volume.UUID]*forecast.Pattern) {
	w.known = make(map[volume.UUID]*knowledge, len(known))
	for id, p := range known {
		w.known[id] = &knowledge{writes: forecast.NewRecorder(p), until: p.Until}
	}
}

// startWatching begins to watch, if nothing has begun to. The caller holds
// changes.
func (g *Group) startWatching() {
	if g.watch.stop != nil || g.opts.Manual {
		return
	}
	g.watch.stop, g.watch.done = make(chan struct{}), make(chan struct{})
	go g.runWatch(g.watch.stop, g.watch.done)
}

// stopWatching returns when nothing is watched any more. The caller holds
// changes.
func (g *Group) stopWatching() {
	if g.watch.stop != nil {
		close(g.watch.stop)
		<-g.watch.done
		g.watch.stop = nil
	}
}

func (g *Group) runWatch(stop, done chan struct{}) {
	defer close(done)
	tick := time.NewTicker(forecast.Slot)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-tick.C:
			g.endSlot()
		case <-stop:
			return
		}
		if n%tellEvery == 0 {
			g.tell()
		}
	}
}

// endSlot ends a slot of every volume that is open, and notes how full each
// snapshot is.
func (g *Group) endSlot() {
	now := g.opts.Now()
	open := map[volume.UUID]bool{}
	g.mu.Lock()
	for _, f := range g.families {
		if lv := g.model.LV(f.top.name); lv != nil && f.top.opens > 0 {
			open[lv.ID] = true
		}
		for _, v := range f.snaps {
			if u := v.store.Usage(); !v.merging && !u.Invalid {
				v.fill.Add(now, u.Allocated)
			}
		}
	}
	g.mu.Unlock()
	g.watch.endSlot(now, open)
}

func (w *watcher) endSlot(now time.Time, open map[volume.UUID]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	slots := w.slots(now)
	for id := range open {
		k := w.of(id)
		for range slots {
			k.writes.Step()
		}
		k.until, w.news = now, true
	}
}

// maxSlots is how many slots may end at once. Where more have gone by, the
// machine was asleep, and nobody wrote.
const maxSlots = 3

// slots returns how many slots have gone by since the last time. A machine
// that is busy skips ticks. The caller holds mu.
func (w *watcher) slots(now time.Time) int64 {
	gone := int64(now.Sub(w.last)+forecast.Slot/2) / int64(forecast.Slot)
	w.last = now
	if gone > maxSlots {
		return 1
	}
	return max(1, gone)
}

// pattern returns what is known of a volume's writes.
func (w *watcher) pattern(id volume.UUID) *forecast.Pattern {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := w.known[id]
	if k == nil {
		return &forecast.Pattern{}
	}
	p := k.writes.Pattern()
	p.Until = k.until
	return p
}

// tell passes on what is known of the group's volumes, if something is new.
func (g *Group) tell() {
	w := &g.watch
	w.mu.Lock()
	news := w.news && g.opts.Learned != nil
	w.news = false
	w.mu.Unlock()
	if !news {
		return
	}
	out := map[volume.UUID]*forecast.Pattern{}
	for _, lv := range g.Model().LVs {
		if p := w.pattern(lv.ID); len(p.Windows) > 0 {
			out[lv.ID] = p
		}
	}
	g.opts.Learned(out)
}

// Writes returns what is known of the writes to a volume, or to the origin of a
// snapshot, whether it is active or not. A pattern without windows knows
// nothing yet.
func (g *Group) Writes(name string) (*forecast.Pattern, error) {
	top, err := topOf(g.Model(), name)
	if err != nil {
		return nil, err
	}
	return g.watch.pattern(top.ID), nil
}

// wrote notes a write that succeeded. A discard and zeroes are writes: a
// snapshot keeps what was there before.
func (h *handle) wrote(off, length int64, err error) error {
	if err == nil && h.vol.writes != nil {
		h.vol.writes.Touch(off, length)
	}
	return err
}

// fullIn estimates when a store will be full, nil if nothing can be said. The caller
// holds Group.mu.
func (v *vol) fullIn(total int64) *time.Duration {
	d, known := v.fill.TimeToFull(total)
	if !known {
		return nil
	}
	return &d
}
