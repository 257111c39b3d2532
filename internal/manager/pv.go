package manager

import (
	"context"
	"fmt"

	"cowl/internal/block/file"
	"cowl/internal/errs"
	"cowl/internal/metastore"
	"cowl/internal/volume"
)

// PVCreate says how physical volumes are made. The zero value takes LVM2's
// layout and destroys nothing that can be recognised.
type PVCreate struct {
	// Layout of the PV; its ID is taken if it is set.
	Layout metastore.PVOptions
	// Force is how often --force was given: twice takes a PV away from its
	// group.
	Force int
	// Confirm asks a person; nil answers no.
	Confirm func(question string) (bool, error)
}

func (o PVCreate) ask(format string, args ...any) (bool, error) {
	if o.Confirm == nil {
		return false, nil
	}
	return o.Confirm(fmt.Sprintf(format, args...))
}

// minPVSize is the smallest device that LVM2 takes for a PV, in bytes.
const minPVSize = 2 << 20

// CreatePVs makes physical volumes of devices, as pvcreate does. The first
// failure ends it; the result has what was done until then.
func (h *Host) CreatePVs(ctx context.Context, names []string, o PVCreate) (*Result, error) {
	res := &Result{}
	for _, name := range names {
		if err := h.createPV(ctx, name, o, res); err != nil {
			return res, fmt.Errorf("%w\n%s: physical volume not initialized.", err, name)
		}
	}
	return res, nil
}

func (h *Host) createPV(ctx context.Context, name string, o PVCreate, res *Result) error {
	in, err := h.groupOf(ctx, name)
	if err != nil {
		return err
	}
	if err := o.overrule(name, in); err != nil {
		return err
	}
	set, err := h.lockAsSeen(ctx, name, in)
	if err != nil {
		return err
	}
	defer set.close()
	_, err = h.initialize(ctx, set, name, o, res)
	return err
}

// lockAsSeen locks a device, and makes sure that nobody has taken it into a
// group since it was looked at.
func (h *Host) lockAsSeen(ctx context.Context, name string, seen standing) (*deviceSet, error) {
	set, err := h.lockDevices(ctx, []string{name})
	if err != nil {
		return nil, err
	}
	if _, err := readUnchanged(set, name, seen); err != nil && !isNoPV(err) {
		set.close()
		return nil, err
	}
	return set, nil
}

// isNoPV reports whether a label could not be read because there is none, or
// none that anybody can use.
func isNoPV(err error) bool { return errs.Is(err, errs.NotFound) || errs.Is(err, errs.Corrupt) }

// readUnchanged reads a device that is locked.
func readUnchanged(set *deviceSet, name string, seen standing) (*metastore.PV, error) {
	dev, err := set.open(name)
	if err != nil {
		return nil, err
	}
	pv, err := metastore.ReadPV(metastore.Source{Path: absolute(name), Dev: dev})
	if err != nil {
		return nil, err
	}
	now := standingOf(pv, &metastore.Inventory{})
	if free := seen.group == "" && !seen.lost; free && (now.group != "" || now.lost) {
		return nil, errs.E(errs.Conflict, "Physical volume '%s' has just been taken into a volume group by another command", name)
	}
	return pv, nil
}

// standing is what a device is when it is looked at.
type standing struct {
	labelled bool
	group    string // the group it is in, "" if none
	lost     bool   // it says that it is in a group, but none has it
}

// groupOf finds out what a device is, as far as all devices together tell.
func (h *Host) groupOf(ctx context.Context, name string) (standing, error) {
	if err := h.checkListed(name); err != nil {
		return standing{}, err
	}
	own := newDeviceSet(file.Options{ReadOnly: true})
	defer own.close()
	dev, err := own.open(name)
	if err != nil {
		return standing{}, err
	}
	pv, err := metastore.ReadPV(metastore.Source{Path: absolute(name), Dev: dev})
	if isNoPV(err) {
		return standing{}, nil
	}
	if err != nil {
		return standing{}, err
	}
	s, err := h.scanForNew(ctx)
	if err != nil {
		return standing{}, err
	}
	defer s.set.close()
	return standingOf(pv, s.found), nil
}

func standingOf(pv *metastore.PV, all *metastore.Inventory) standing {
	for _, f := range all.Groups {
		if f.Group.PVByID(pv.ID()) != nil {
			return standing{labelled: true, group: f.Group.Name}
		}
	}
	// It need not be among the devices that are looked at.
	if own := metastore.Assemble([]*metastore.PV{pv}); len(own.Groups) > 0 && own.Groups[0].Group.PVByID(pv.ID()) != nil {
		return standing{labelled: true, group: own.Groups[0].Group.Name}
	}
	return standing{labelled: true, lost: pv.InUse()}
}

// overrule refuses to make a PV of one that is in a group, unless force and
// a person say so.
func (o PVCreate) overrule(name string, in standing) error {
	switch {
	case in.group == "" && !in.lost:
		return nil
	case o.Force < 2 && in.lost:
		return errs.E(errs.Conflict, "PV %s is used by a VG but its metadata is missing.\nCan't initialize PV '%s' without -ff.", name, name)
	case o.Force < 2:
		return errs.E(errs.Conflict, "Can't initialize physical volume %q of volume group %q without -ff", name, in.group)
	}
	yes, err := o.ask("Really INITIALIZE physical volume %q of volume group %q", name, in.group)
	if err == nil && !yes {
		err = errs.E(errs.Conflict, "%s: physical volume left as it is.", name)
	}
	return err
}

// initialize makes a PV of a device that the set has locked. The devices file
// comes first: a device that is listed and has no label harms nobody, but a PV
// that is not listed is lost from sight.
func (h *Host) initialize(ctx context.Context, set *deviceSet, name string, o PVCreate, res *Result) (*metastore.PV, error) {
	dev, err := set.open(name)
	if err != nil {
		return nil, err
	}
	src := metastore.Source{Path: absolute(name), Dev: dev}
	if src.Dev.Size() < minPVSize {
		return nil, errs.E(errs.NoSpace, "Cannot use %s: device is too small (pv_min_size)", name)
	}
	layout := o.Layout
	if layout.ID == "" {
		layout.ID = h.newID()
	}
	if _, err := metastore.Layout(dev.Size(), layout); err != nil {
		return nil, err
	}
	notes, err := wipeSignatures(src, o)
	res.Notes = append(res.Notes, notes...)
	if err != nil {
		return nil, err
	}
	if err := h.remember(ctx, map[string]volume.UUID{name: layout.ID}); err != nil {
		return nil, err
	}
	pv, err := metastore.CreatePV(src, layout)
	if err != nil {
		return nil, err
	}
	res.Names = append(res.Names, name)
	res.Notes = append(res.Notes, fmt.Sprintf("Physical volume %q successfully created.", name))
	return pv, nil
}

// RemovePVs takes the labels off devices, as pvremove does. A PV in a group is
// refused unless it is forced twice and confirmed.
func (h *Host) RemovePVs(ctx context.Context, names []string, o PVCreate) (*Result, error) {
	res := &Result{}
	for _, name := range names {
		if err := h.removePV(ctx, name, o); err != nil {
			return res, err
		}
		res.Names = append(res.Names, name)
		res.Notes = append(res.Notes, fmt.Sprintf("Labels on physical volume %q successfully wiped.", name))
	}
	return res, nil
}

func (h *Host) removePV(ctx context.Context, name string, o PVCreate) error {
	in, err := h.groupOf(ctx, name)
	if err != nil {
		return err
	}
	if err := o.overruleRemoval(name, in); err != nil {
		return err
	}
	set, err := h.lockAsSeen(ctx, name, in)
	if err != nil {
		return err
	}
	defer set.close()
	dev, err := set.open(name)
	if err != nil {
		return err
	}
	err = metastore.WipePV(metastore.Source{Path: absolute(name), Dev: dev})
	if errs.Is(err, errs.NotFound) {
		return errs.E(errs.NotFound, "No PV found on device %s.", name)
	}
	if err != nil {
		return err
	}
	return h.forget(ctx, []string{name})
}

func (o PVCreate) overruleRemoval(name string, in standing) error {
	if in.group == "" && !in.lost {
		return nil
	}
	by := "VG " + in.group
	if in.lost {
		by = "a VG but its metadata is missing"
	}
	refused := errs.E(errs.Conflict, "%s: physical volume label not removed.", name)
	if o.Force < 2 {
		return errs.E(errs.Conflict, "PV %s is used by %s so please use vgreduce first.\n"+
			"(If you are certain you need pvremove, then confirm by using --force twice.)\n%w", name, by, refused)
	}
	yes, err := o.ask("Really WIPE LABELS from physical volume %q of volume group %q", name, in.group)
	if err == nil && !yes {
		err = refused
	}
	return err
}

// CreateGroup makes a volume group of devices, as vgcreate does: those that are
// no PVs yet become some. The spec's PVs are not used.
func (h *Host) CreateGroup(ctx context.Context, spec volume.GroupSpec, names []string, o PVCreate) (*Result, error) {
	if err := volume.CheckGroupName(spec.Name); err != nil {
		return nil, err
	}
	if err := h.checkNew(ctx, spec, names); err != nil {
		return nil, err
	}
	set := newDeviceSet(lockOptions)
	defer set.close()
	res := &Result{}
	pvs, err := h.takePVs(ctx, set, spec.Name, names, o, res)
	if err != nil {
		return res, err
	}
	for _, pv := range pvs {
		spec.PVs = append(spec.PVs, pv.Spec())
	}
	g, err := volume.NewGroup(spec, h.stamp())
	if err != nil {
		return res, err
	}
	store, err := metastore.New(pvs, h.storeOptions())
	if err != nil {
		return res, err
	}
	if err := store.Precommit(g); err != nil {
		return res, err
	}
	err = store.Commit()
	res.Names = []string{g.Name}
	res.Notes = append(res.Notes, store.Warnings()...)
	return res, err
}

// checkNew refuses a group whose name is taken or whose spec makes no sense,
// before anything is written.
func (h *Host) checkNew(ctx context.Context, spec volume.GroupSpec, names []string) error {
	if len(names) == 0 {
		return errs.E(errs.Usage, "Please enter physical volume name(s)")
	}
	spec.PVs = nil
	if _, err := volume.NewGroup(spec, h.stamp()); err != nil {
		return err
	}
	if owner, err := h.dial(ctx, spec.Name); err == nil {
		owner.Close()
		return errs.E(errs.Exists, "A volume group called %s is being served from %s.", spec.Name, h.o.RunDir)
	}
	s, err := h.scanForNew(ctx)
	if err != nil {
		return err
	}
	defer s.set.close()
	for _, f := range s.found.Groups {
		if f.Group.Name == spec.Name {
			return errs.E(errs.Exists, "A volume group called %s already exists.", spec.Name)
		}
	}
	return nil
}

// takePVs returns the PVs of devices that a group shall take in, which the set
// locks.
func (h *Host) takePVs(ctx context.Context, set *deviceSet, group string, names []string, o PVCreate, res *Result) ([]*metastore.PV, error) {
	var pvs []*metastore.PV
	for _, name := range names {
		pv, err := h.takePV(ctx, set, group, name, o, res)
		if err != nil {
			return nil, err
		}
		pvs = append(pvs, pv)
	}
	return pvs, nil
}

func (h *Host) takePV(ctx context.Context, set *deviceSet, group, name string, o PVCreate, res *Result) (*metastore.PV, error) {
	in, err := h.groupOf(ctx, name)
	if err != nil {
		return nil, err
	}
	switch {
	case in.group != "":
		return nil, errs.E(errs.Conflict, "Physical volume '%s' is already in volume group '%s'\n"+
			"Unable to add physical volume '%s' to volume group '%s'\n%s: physical volume not initialized.", name, in.group, name, in.group, name)
	case in.lost:
		return nil, errs.E(errs.Conflict, "PV %s is used by a VG but its metadata is missing.\n"+
			"Unable to add physical volume '%s' to volume group '%s'.", name, name, group)
	}
	var pv *metastore.PV
	err = h.patiently(ctx, func() (err error) {
		pv, err = readUnchanged(set, name, in)
		return err
	})
	switch {
	case err == nil:
		return pv, h.remember(ctx, map[string]volume.UUID{name: pv.ID()})
	case !in.labelled && isNoPV(err):
		pv, err = h.initialize(ctx, set, name, o, res)
	}
	if err != nil {
		return nil, fmt.Errorf("%w\n%s: physical volume not initialized.", err, name)
	}
	return pv, nil
}
