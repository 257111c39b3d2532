package engine

import (
	"context"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/metastore"
	"cowl/internal/volume"
)

// AddPVs takes PVs of no group into this one. Their devices are the engine's
// to use from then on, and stay the caller's to close.
func (g *Group) AddPVs(ctx context.Context, pvs []*metastore.PV) (*Result, error) {
	if err := g.begin(ctx); err != nil {
		return nil, err
	}
	defer g.unlock()
	next, res := g.Model(), &Result{}
	for _, pv := range pvs {
		c, err := next.AddPV(pv.Spec())
		if err != nil {
			return nil, err
		}
		next = c.Group
		res.Names = append(res.Names, pv.Path)
		res.Notes = append(res.Notes, c.Notes...)
	}
	if err := g.commitWith(next, pvs); err != nil {
		return nil, err
	}
	for _, pv := range pvs {
		g.devs[pv.ID()] = pv.Dev
	}
	return g.warn(res), nil
}

// commitWith commits metadata that has new PVs in it.
func (g *Group) commitWith(next *volume.Group, pvs []*metastore.PV) error {
	var err error
	for _, pv := range pvs {
		if err == nil {
			err = g.store.Attach(pv)
		}
	}
	if err == nil {
		err = g.commit(next)
	}
	if err != nil {
		for _, pv := range pvs {
			g.store.Detach(pv.ID())
		}
	}
	return err
}

// RemovePVs takes PVs of which nothing is allocated out of the group. They
// stay PVs, and their devices are the caller's alone again.
func (g *Group) RemovePVs(ctx context.Context, ids []volume.UUID) (*Result, error) {
	if err := g.begin(ctx); err != nil {
		return nil, err
	}
	defer g.unlock()
	next, res := g.Model(), &Result{}
	for _, id := range ids {
		pv := next.PVByID(id)
		if pv == nil {
			return nil, errs.E(errs.NotFound, "PV %s is not in volume group %s", id, next.Name)
		}
		c, err := next.RemovePV(pv.Key)
		if err != nil {
			return nil, err
		}
		next = c.Group
		res.Names = append(res.Names, pv.Device)
		res.Notes = append(res.Notes, c.Notes...)
	}
	if err := g.commit(next); err != nil {
		return nil, err
	}
	for _, id := range ids {
		delete(g.devs, id)
	}
	return g.warn(res), nil
}

// ResizePV takes over that a PV's device has another size, in bytes, which size
// finds out with the right to change the group held. path is for messages.
func (g *Group) ResizePV(ctx context.Context, id volume.UUID, path string, size func(dev block.Device) (int64, error)) (*Result, error) {
	if err := g.begin(ctx); err != nil {
		return nil, err
	}
	defer g.unlock()
	model := g.Model()
	pv := model.PVByID(id)
	if pv == nil || g.devs[id] == nil {
		return nil, errs.E(errs.NotFound, "PV %s is not in volume group %s", id, model.Name)
	}
	bytes, err := size(g.devs[id])
	if err != nil {
		return nil, err
	}
	c, err := model.ResizePV(pv.Key, path, volume.Sectors(bytes/block.SectorSize))
	if err != nil {
		return nil, err
	}
	if err := g.commit(c.Group); err != nil {
		return nil, err
	}
	return g.warn(&Result{Names: []string{path}, Notes: c.Notes}), nil
}

// RemoveGroup removes the group and all of its volumes from its PVs, which
// stay PVs, and closes it. A volume that is open is errs.Busy. If it fails
// behind that, nothing is active, and it can be tried again.
func (g *Group) RemoveGroup(ctx context.Context) (*Result, error) {
	if err := g.begin(ctx); err != nil {
		return nil, err
	}
	defer g.unlock()
	model := g.Model()
	families, err := g.hideAll()
	if err != nil {
		return nil, err
	}
	for _, f := range families {
		f.stopMerge()
		g.discard(f)
	}
	if err := g.store.Remove(); err != nil {
		return nil, err
	}
	g.setClosed()
	return g.warn(&Result{Names: []string{model.Name}}), nil
}

// hideAll withdraws every family, unless one is open.
func (g *Group) hideAll() ([]*family, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []*family
	for _, f := range g.families {
		if f.opens() > 0 {
			return nil, errs.E(errs.Busy, "Logical volume %s/%s in use.", g.model.Name, f.inUse())
		}
		all = append(all, f)
	}
	for _, f := range all {
		g.withdraw(f)
	}
	return all, nil
}
