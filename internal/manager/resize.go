package manager

import (
	"context"

	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/errs"
	"cowl/internal/metastore"
	"cowl/internal/volume"
)

// ResizePV implements Group.
func (l *Local) ResizePV(ctx context.Context, path string, size int64) (*Result, error) {
	if err := l.checkWhole(); err != nil {
		return nil, err
	}
	l.pvs.Lock()
	defer l.pvs.Unlock()
	pv := l.find(path)
	if pv == nil {
		return nil, errs.E(errs.NotFound, "Failed to find physical volume %q.", path)
	}
	if err := checkMovable(path, hasSecondArea(l.store.State()[pv.ID])); err != nil {
		return nil, err
	}
	return result(l.engine.ResizePV(ctx, pv.ID, path, func(dev block.Device) (int64, error) {
		return sizeOr(size, dev)
	}))
}

// ResizePV is Group.ResizePV for a PV of no group.
func (h *Host) ResizePV(ctx context.Context, path string, size int64) (*Result, error) {
	in, err := h.groupOf(ctx, path)
	if err != nil {
		return nil, err
	}
	switch {
	case in.group != "":
		return nil, errs.E(errs.Conflict, "Physical volume '%s' is in volume group '%s'", path, in.group)
	case in.lost:
		return nil, errs.E(errs.Conflict, "PV %s is used by a VG but its metadata is missing.", path)
	case !in.labelled:
		return nil, errs.E(errs.NotFound, "Failed to find physical volume %q.", path)
	}
	set, err := h.lockAsSeen(ctx, path, in)
	if err != nil {
		return nil, err
	}
	defer set.close()
	pv, err := readUnchanged(set, path, in)
	if err != nil {
		return nil, err
	}
	if err := checkMovable(path, len(pv.MDAs) > 1); err != nil {
		return nil, err
	}
	if size, err = sizeOr(size, pv.Dev); err != nil {
		return nil, err
	}
	if err := volume.CheckPVSize(path, volume.Sectors(size/block.SectorSize)); err != nil {
		return nil, err
	}
	if err := metastore.ResizePV(pv, size); err != nil {
		return nil, err
	}
	return &Result{Names: []string{path}}, nil
}

// sizeOr returns the size that was asked for, or the present one of a device.
func sizeOr(size int64, dev block.Device) (int64, error) {
	if size < 0 {
		return 0, errs.E(errs.Usage, "a PV cannot have %d bytes", size)
	}
	if f, ok := dev.(*file.Device); ok && size == 0 { // it may have grown since it was opened
		return f.Enlarge(0)
	}
	if size == 0 {
		return dev.Size(), nil
	}
	return size, nil
}

// checkMovable refuses to change the size of a PV that has metadata at its end,
// which would have to move.
func checkMovable(path string, second bool) error {
	if !second {
		return nil
	}
	return errs.WithHint(errs.E(errs.Unsupported, "%s has a second metadata area at its end, which cowl does not move.", path),
		"lvm2's pvresize does, of a disk or a loop device, while cowl does not run the group.")
}
