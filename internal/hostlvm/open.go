package hostlvm

import (
	"context"
	"errors"
	"fmt"

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
// A volume that others have open is read past the page cache: a file system keeps
// there what it has not committed, and writes to its journal without it.
//
// A snapshot that cowl made is kept from overflowing from then on: see keep.
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
	_, isSnapshot := model.SnapshotOf(lv)
	lives, active := running[name]
	if !active {
		if _, err := g.Activate(ctx, name); err != nil {
			return nil, err
		}
		o.activated = true
	}
	direct := !isSnapshot && lives.Info.Opens > 0
	if o.Device, err = g.device(lv, file.Options{ReadOnly: readOnly, Lock: lockFor(readOnly), Direct: direct}); err != nil {
		return nil, errors.Join(err, o.deactivate())
	}
	g.count(name, 1)
	if isSnapshot {
		g.keep(lv)
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
}

// Close implements block.Device.
func (o *opened) Close() error {
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
