package manager

import (
	"context"
	"fmt"
	"slices"

	"cowl/internal/block"
	"cowl/internal/engine"
	"cowl/internal/errs"
	"cowl/internal/metastore"
	"cowl/internal/volume"
)

// OpenGroup opens a group for use and change: through the daemon that owns it,
// if there is one; through the host's lvm2 if the kernel has it active; otherwise
// in this process, whose alone it is then until it is closed. Devices that another command holds are waited for a few seconds.
//
// The error is of kind errs.NotFound if there is no such group, errs.Busy if
// somebody else holds one of its devices, and errs.Conflict or errs.Unsupported
// if the group is not for us: exported, another system's, or shared.
func (h *Host) OpenGroup(ctx context.Context, name string) (Group, error) {
	var g Group
	err := h.patiently(ctx, func() error {
		// A daemon may have come up while its devices were waited for.
		owner, err := h.dial(ctx, name)
		if err == nil && h.o.Backend == BackendHost {
			owner.Close()
			return errs.WithHint(errs.E(errs.Conflict, "volume group %s is run by a daemon of cowl's", name), "cowl vgchange -an %s ends it.", name)
		}
		if err == nil {
			g, err = owner, h.checkOwner(ctx, owner, name)
			if err != nil {
				owner.Close()
			}
			return err
		}
		if !errs.Is(err, errs.NotFound) {
			return err
		}
		if h.o.Backend != BackendCowl {
			hosted, err := h.tryHosted(ctx, name)
			if err == nil {
				g = hosted
			}
			if h.o.Backend == BackendHost || !errs.Is(err, errs.NotFound) {
				return err
			}
		}
		local, err := h.tryLocal(ctx, name)
		if err == nil {
			g = local
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return g, nil
}

// OpenLocal opens a group in this process, whoever else may serve it: it is
// for the daemon. Otherwise it is as OpenGroup.
func (h *Host) OpenLocal(ctx context.Context, name string) (*Local, error) {
	var g *Local
	err := h.patiently(ctx, func() (err error) {
		g, err = h.tryLocal(ctx, name)
		return err
	})
	return g, err
}

// checkOwner makes sure that the daemon serves the group that the devices
// have. One on devices that are not looked at is taken as it is.
func (h *Host) checkOwner(ctx context.Context, owner Group, name string) error {
	st, err := owner.Status(ctx)
	if err != nil {
		return err
	}
	s, err := h.scan(ctx)
	if err != nil {
		return err
	}
	defer s.set.close()
	f, err := s.found.Find(name)
	if err == nil && f.Group.ID != st.Group.ID {
		return errs.WithHint(errs.E(errs.Conflict, "volume group %s on the devices has id %s, the one that is served (pid %d) has %s",
			name, f.Group.ID, st.Owner, st.Group.ID), "Give the daemon another run directory ($COWL_RUN_DIR), or rename a group.")
	}
	return nil
}

// membership is what a look without locks found of a group.
type membership struct {
	id      volume.UUID
	names   []string // of the devices that are there
	missing []*volume.PV
}

// tryLocal opens a group in this process. The devices are read once without
// locks, to know which ones are the group's, and again with them.
func (h *Host) tryLocal(ctx context.Context, name string) (*Local, error) {
	m, err := h.members(ctx, name)
	if err != nil {
		return nil, err
	}
	set := newDeviceSet(lockOptions)
	local, err := h.openLocked(set, name, m)
	if err != nil {
		set.close()
		return nil, err
	}
	return local, nil
}

// members returns the devices of a group, which is one that may be opened.
func (h *Host) members(ctx context.Context, name string) (membership, error) {
	s, err := h.scan(ctx)
	if err != nil {
		return membership{}, err
	}
	defer s.set.close()
	f, err := s.found.Find(name)
	if err != nil {
		return membership{}, err
	}
	if kernelRuns(f) {
		return membership{}, errKernels(name)
	}
	m := membership{id: f.Group.ID, missing: f.Missing()}
	for _, pv := range f.PVs {
		if pv != nil {
			m.names = append(m.names, pv.Path)
		}
	}
	return m, checkUsable(f)
}

// checkUsable refuses groups that are not ours to change.
func checkUsable(f *metastore.Found) error {
	g := f.Group
	switch {
	case f.Unusable != nil:
		return f.Unusable
	case g.Has(volume.StatusExported):
		return errs.WithHint(errs.E(errs.Conflict, "Volume group %s is exported", g.Name), "Import it with LVM's vgimport first.")
	case g.SystemID != "":
		return errs.E(errs.Unsupported, "Cannot access VG %s with system ID %s with unknown local system ID.", g.Name, g.SystemID)
	case g.LockType != "" && g.LockType != "none":
		return errs.E(errs.Unsupported, "Cannot access VG %s due to its lock type %s: it is shared between hosts.", g.Name, g.LockType)
	}
	return nil
}

// openLocked locks the group's devices and reads them again. If somebody has
// changed the group between the two looks, that is errs.Busy, and patiently
// looks once more.
func (h *Host) openLocked(set *deviceSet, group string, m membership) (*Local, error) {
	pvs, err := readPVs(set, m.names)
	if err != nil {
		return nil, err
	}
	f, err := metastore.Assemble(pvs).Find(group)
	if errs.Is(err, errs.NotFound) || err == nil && !m.same(f) {
		return nil, errs.E(errs.Busy, "volume group %s is being changed by another command", group)
	}
	if err == nil {
		err = checkUsable(f)
	}
	if err != nil {
		return nil, err
	}
	return h.newLocal(set, f)
}

// same reports whether the group still has the same PVs.
func (m membership) same(f *metastore.Found) bool {
	return f.Group.ID == m.id && len(f.Group.PVs) == len(m.names)+len(m.missing) &&
		slices.EqualFunc(f.Missing(), m.missing, func(a, b *volume.PV) bool { return a.ID == b.ID })
}

// newLocal hands what was found to the engine.
func (h *Host) newLocal(set *deviceSet, f *metastore.Found) (*Local, error) {
	settings, warnings, err := h.Settings()
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		h.o.Log.Warn(w)
	}
	store, err := metastore.Open(f, h.storeOptions())
	if err != nil {
		return nil, err
	}
	devs := map[volume.UUID]block.Device{}
	for _, pv := range f.PVs {
		if pv != nil {
			devs[pv.ID()] = pv.Dev
		}
	}
	eng, err := engine.Open(store, devs, engine.Options{
		Now: h.o.Now, Random: h.o.Random, Host: h.host, Log: h.o.Log,
		Known: h.recall(f.Group), Learned: func(m patterns) { h.keep(f.Group, m) },
		Growth: settings.growth(store),
	})
	if err != nil {
		return nil, err
	}
	return &Local{host: h, engine: eng, store: store, set: set, growth: settings.Growth}, nil
}

// readPVs opens devices and reads their labels and metadata.
func readPVs(set *deviceSet, names []string) ([]*metastore.PV, error) {
	var pvs []*metastore.PV
	for _, name := range names {
		dev, err := set.open(name)
		if err != nil {
			return nil, err
		}
		pv, err := metastore.ReadPV(metastore.Source{Path: name, Dev: dev})
		if err != nil {
			return nil, fmt.Errorf("read PV: %w", err)
		}
		pvs = append(pvs, pv)
	}
	return pvs, nil
}
