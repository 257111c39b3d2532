package hostlvm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/devmapper"
	"cowl/internal/errs"
	"cowl/internal/freeze"
	"cowl/internal/volume"
)

// Open returns a volume's device. It activates the volume for as long as it is
// open. For writing it is opened exclusively: a volume that is mounted, or used
// otherwise by the kernel, is refused with errs.Busy.
//
// While a snapshot that cowl made is open its store is watched, and extended
// before it overflows.
func (g *Group) Open(ctx context.Context, name string, readOnly bool) (block.Device, error) {
	model, lv, err := g.find(ctx, name)
	if err != nil {
		return nil, err
	}
	running, err := Running(model)
	if err != nil {
		return nil, err
	}
	o := &opened{group: g, name: name}
	if _, active := running[name]; !active {
		if _, err := g.Activate(ctx, name); err != nil {
			return nil, err
		}
		o.activated = true
	}
	if o.Device, err = g.device(lv, file.Options{ReadOnly: readOnly, Lock: lockFor(readOnly)}); err != nil {
		return nil, errors.Join(err, o.deactivate())
	}
	g.count(name, 1)
	if _, isSnapshot := model.SnapshotOf(lv); isSnapshot && growth(lv).Enabled() {
		o.watch(lv)
	}
	return o, nil
}

func lockFor(readOnly bool) file.Lock {
	if readOnly {
		return file.None
	}
	return file.Exclusive
}

// device opens a volume's device, which is the one with the volume's UUID: names
// below /dev may lag behind, or be somebody else's.
func (g *Group) device(lv *volume.LV, o file.Options) (*file.Device, error) {
	return openLayer(g.uuid(lv, devmapper.LayerNone), o)
}

func openLayer(uuid string, o file.Options) (*file.Device, error) {
	c, err := devmapper.Open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	info, err := c.Info(uuid)
	if err != nil {
		return nil, err
	}
	want := freeze.Device{Major: info.Major, Minor: info.Minor}
	for _, path := range []string{"/dev/mapper/" + info.Name, fmt.Sprintf("/dev/dm-%d", info.Minor)} {
		if numberOf(path) == want {
			return file.Open(path, o)
		}
	}
	return nil, errs.WithHint(errs.E(errs.NotFound, "device %s (%d:%d) has no node below /dev", info.Name, info.Major, info.Minor), "vgmknodes makes it.")
}

// opened is a device that cleans up when it is closed.
type opened struct {
	block.Device
	group     *Group
	name      string
	activated bool
	stop      func() // ends the watching, nil without any
}

// Close implements block.Device.
func (o *opened) Close() error {
	if o.stop != nil {
		o.stop()
	}
	err := o.Device.Close()
	o.group.count(o.name, -1)
	return errors.Join(err, o.deactivate())
}

// count keeps account of what Open returned.
func (g *Group) count(name string, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[name] += n; g.open[name] == 0 {
		delete(g.open, name)
	}
}

func (o *opened) deactivate() error {
	if !o.activated {
		return nil
	}
	_, err := o.group.Deactivate(context.Background(), o.name)
	return err
}

// ourTags is what the tags of snapshots that cowl made begin with. Others' are
// left alone.
const ourTags = "cowl."

// growth says how a snapshot's store is kept from overflowing: by its tags, and
// where they say nothing as in lvm.conf's example, for snapshots that cowl made.
func growth(lv *volume.LV) volume.Growth {
	for _, tag := range lv.Tags {
		if strings.HasPrefix(tag, ourTags) {
			return lv.GrowthOf(volume.Growth{Threshold: 70, Percent: 20})
		}
	}
	return volume.Growth{}
}

// watchEvery is how often a store's usage is looked at. The look is one ioctl.
const watchEvery = 200 * time.Millisecond

// watch extends the snapshot's store when it is fuller than its threshold, until
// stop is called.
func (o *opened) watch(lv *volume.LV) {
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() {
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for ctx.Err() == nil {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			if more, err := o.group.extend(ctx, lv); err != nil || !more {
				// Whoever reads the snapshot finds out by its status what comes of that.
				o.group.o.Log.Warn("a snapshot's store is not extended any more", "snapshot", o.group.full(lv.Name), "err", err)
				return
			}
		}
	})
	o.stop = func() {
		cancel()
		ended.Wait()
	}
}

// extend looks once, and extends the store if that is due. It reports whether
// there is anything left to watch.
func (g *Group) extend(ctx context.Context, lv *volume.LV) (bool, error) {
	cow, err := g.usage(lv)
	if err != nil || cow.Invalid {
		return false, err
	}
	policy := growth(lv)
	if !policy.Exceeded(cow.Allocated*512, cow.Total*512) {
		return true, nil
	}
	model, err := g.o.Read(ctx)
	if err != nil {
		return false, err
	}
	extents, err := model.GrowExtents(volume.GrowSpec{Name: lv.Name, Used: cow.Allocated * 512, Growth: policy})
	if err != nil || extents == 0 {
		return false, err // as large as can be of use
	}
	if extents = min(extents, model.Spare()); extents == 0 {
		return false, errs.E(errs.NoSpace, "volume group %s has no free extents", g.name)
	}
	_, err = g.ExtendLV(ctx, volume.ExtendSpec{Name: lv.Name, Size: volume.Size{Extents: extents}, Relative: true})
	return err == nil, err
}

// usage asks the kernel for the usage of a snapshot's store.
func (g *Group) usage(lv *volume.LV) (Cow, error) {
	c, err := devmapper.Open()
	if err != nil {
		return Cow{}, err
	}
	defer c.Close()
	targets, err := c.Status(g.uuid(lv, devmapper.LayerNone))
	if err != nil {
		return Cow{}, err
	}
	for _, t := range targets {
		if t.Type == "snapshot" {
			return parseCow(t.Status)
		}
	}
	return Cow{}, errs.E(errs.Conflict, "%s is no snapshot any more", g.full(lv.Name))
}
