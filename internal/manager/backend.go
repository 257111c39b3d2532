package manager

import (
	"context"
	"fmt"

	"cowl/internal/devmapper"
	"cowl/internal/errs"
	"cowl/internal/hostlvm"
	"cowl/internal/metastore"
	"cowl/internal/volume"
)

// Backend says who is to run groups.
type Backend string

// The backends. Whatever is asked for, a group has one at a time: the kernel's
// mappings and cowl's engine claim the same PVs exclusively.
const (
	BackendAuto Backend = ""     // the kernel what it has active, cowl's engine all else
	BackendHost Backend = "host" // the host's lvm2
	BackendCowl Backend = "cowl" // cowl's engine
)

// ParseBackend reads a backend's name.
func ParseBackend(text string) (Backend, error) {
	switch b := Backend(text); b {
	case BackendHost, BackendCowl:
		return b, nil
	case BackendAuto, "auto":
		return BackendAuto, nil
	}
	return "", errs.E(errs.Usage, "%q is no backend: use auto, host or cowl.", text)
}

// kernelRuns reports whether the kernel has volumes of the group active, on
// these PVs: a copy of a disk is a group with the same identifiers, and what the
// kernel runs is not on it.
func kernelRuns(f *metastore.Found) bool {
	active, err := devmapper.List(devmapper.GroupPrefix(f.Group.ID))
	if err != nil || len(active) == 0 {
		return false
	}
	pvs := map[string]bool{}
	for _, pv := range f.PVs {
		if pv != nil {
			if major, minor := deviceNumber(pv.Path); major != 0 {
				pvs[fmt.Sprintf("%d:%d", major, minor)] = true
			}
		}
	}
	for _, d := range active {
		if standsOn(d.Major, d.Minor, pvs) {
			return true
		}
	}
	return false
}

// RunByKernel reports whether commands for a group go to the host's lvm2.
func (h *Host) RunByKernel(ctx context.Context, name string) (bool, error) {
	if h.o.Backend != BackendAuto {
		return h.o.Backend == BackendHost, nil
	}
	s, err := h.scan(ctx)
	if err != nil {
		return false, err
	}
	defer s.set.close()
	f, err := s.found.Find(name)
	if err != nil {
		return false, err
	}
	return kernelRuns(f), nil
}

// errKernels is why the engine cannot have a group.
func errKernels(name string) error {
	return errs.WithHint(errs.E(errs.Conflict, "the kernel has volumes of volume group %s active", name),
		"Deactivate them first (vgchange -an %s), or leave --backend out: cowl then drives the host's LVM.", name)
}

// mergeKernel adds what the kernel runs of a group. Without root only that can be
// seen which is active.
func (h *Host) mergeKernel(f *metastore.Found, g *GroupInfo) error {
	if !kernelRuns(f) {
		return nil
	}
	g.Kernel = true
	if h.root {
		running, err := hostlvm.Running(f.Group)
		if err == nil {
			g.LVs = kernelStatus(running)
		}
		return err
	}
	active, err := devmapper.List(devmapper.GroupPrefix(f.Group.ID))
	if err != nil {
		return err
	}
	byUUID := map[string]*volume.LV{}
	for _, lv := range f.Group.Visible() {
		byUUID[devmapper.LVMUUID(f.Group.ID, lv.ID, devmapper.LayerNone)] = lv
	}
	for _, d := range active {
		if lv := byUUID[d.UUID]; lv != nil && d.Live {
			g.LVs[lv.Name] = LVStatus{ReadOnly: d.ReadOnly, Suspended: d.Suspended, File: "/dev/mapper/" + d.Name}
		}
	}
	return nil
}
