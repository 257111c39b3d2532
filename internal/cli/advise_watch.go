package cli

import (
	"context"
	"strings"
	"time"

	"cowl/internal/errs"
	"cowl/internal/forecast"
	"cowl/internal/kernelstat"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// watcher knows a volume's writes.
type watcher interface {
	// pattern returns what is known by now.
	pattern(ctx context.Context) (*forecast.Pattern, error)
	// active reports whether watching can teach more, and tick ends a slot of
	// that.
	active() bool
	tick(ctx context.Context) error
	// source says in a word where the knowledge is from.
	source() string
	end() error
}

// watcher returns who can tell of the volume: the daemon that serves it, the
// kernel, or only what was kept.
func (c *advise) watcher(ctx context.Context, info *manager.GroupInfo) (watcher, error) {
	if info.Owner != 0 {
		g, err := c.host().OpenGroup(ctx, c.group.Name)
		if err != nil {
			return nil, err
		}
		_, active := info.LVs[c.lv.Name]
		return &servedVolume{group: g, name: c.lv.Name, isActive: active}, nil
	}
	all, err := c.host().Learned(c.group.ID)
	if err != nil {
		return nil, err
	}
	known := all[c.lv.ID]
	dev, err := kernelstat.Find(volume.DMName(c.group.Name, c.lv.Name))
	if errs.Is(err, errs.NotFound) || err == nil && dev.UUID != dmUUID(c.group.ID, c.lv.ID) {
		if known == nil {
			known = &forecast.Pattern{}
		}
		return restingVolume{known}, nil
	}
	if err != nil {
		return nil, err
	}
	return c.watchKernel(ctx, dev, known)
}

// dmUUID is how LVM2 marks a volume's device.
func dmUUID(vg, lv volume.UUID) string {
	return "LVM-" + strings.ReplaceAll(string(vg)+string(lv), "-", "")
}

// servedVolume is watched by the daemon, all the time.
type servedVolume struct {
	group    manager.Group
	name     string
	isActive bool
}

func (v *servedVolume) pattern(ctx context.Context) (*forecast.Pattern, error) {
	return v.group.Writes(ctx, v.name)
}
func (v *servedVolume) active() bool               { return v.isActive }
func (v *servedVolume) tick(context.Context) error { return nil }
func (v *servedVolume) source() string             { return "cowl" }
func (v *servedVolume) end() error                 { return v.group.Close() }

// restingVolume is not active: there is what was learnt when it was.
type restingVolume struct{ known *forecast.Pattern }

func (v restingVolume) pattern(context.Context) (*forecast.Pattern, error) { return v.known, nil }
func (restingVolume) active() bool                                         { return false }
func (restingVolume) tick(context.Context) error                           { return nil }
func (restingVolume) source() string                                       { return "kept" }
func (restingVolume) end() error                                           { return nil }

// kernelVolume is run by the kernel, and watched while this command runs.
type kernelVolume struct {
	c       *advise
	counter *kernelstat.Counter
	areas   *forecast.Areas
	until   time.Time
	news    bool
}

func (c *advise) watchKernel(ctx context.Context, dev *kernelstat.Device, known *forecast.Pattern) (watcher, error) {
	counter, err := kernelstat.Count(ctx, dev)
	if err != nil {
		return nil, err
	}
	if why := counter.TotalsOnly(); why != nil {
		c.warn("only totals can be watched: %v", why)
	}
	v := &kernelVolume{c: c, counter: counter, areas: forecast.NewAreas(counter.AreaBytes(), dev.Size, forecast.Slot, known)}
	if known != nil {
		v.until = known.Until
	}
	return v, nil
}

func (v *kernelVolume) pattern(context.Context) (*forecast.Pattern, error) {
	p := v.areas.Pattern()
	p.Until = v.until
	return p, nil
}

func (v *kernelVolume) active() bool { return true }

func (v *kernelVolume) tick(ctx context.Context) error {
	list, err := v.counter.Read(ctx)
	if err != nil {
		return err
	}
	v.areas.Step(list)
	v.until, v.news = v.c.Now(), true
	return nil
}

func (v *kernelVolume) source() string {
	if v.counter.TotalsOnly() != nil {
		return "diskstats"
	}
	return "dm statistics"
}

// end stops the kernel's counting, whatever happened, and keeps what was
// learnt.
func (v *kernelVolume) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := v.counter.Close(ctx)
	if !v.news {
		return err
	}
	host := v.c.host()
	all, _ := host.Learned(v.c.group.ID) // what cannot be read is replaced
	if all == nil {
		all = map[volume.UUID]*forecast.Pattern{}
	}
	all[v.c.lv.ID], _ = v.pattern(ctx)
	if lost := host.Learn(v.c.group, all); lost != nil {
		v.c.warn("what was seen is not kept: %v", lost)
	}
	return err
}
