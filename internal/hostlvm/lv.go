package hostlvm

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"cowl/internal/devmapper"
	"cowl/internal/errs"
	"cowl/internal/freeze"
	"cowl/internal/volume"
)

// CreateLV makes a linear volume.
func (g *Group) CreateLV(ctx context.Context, spec volume.LVSpec) (*Result, error) {
	model, err := g.o.Read(ctx)
	if err != nil {
		return nil, err
	}
	if spec.Name == "" {
		spec.Name = model.NextLVName()
	}
	if err := newName(model, spec.Name); err != nil {
		return nil, err
	}
	args := append([]string{"--name", spec.Name}, permissionArg(spec.ReadOnly)...)
	args = append(args, sizeArgs(spec.Size, "")...)
	if spec.Contiguous {
		args = append(args, "--contiguous", "y")
	}
	tags, err := tagArgs("--addtag", spec.Tags)
	if err != nil {
		return nil, err
	}
	pvs, err := pvArgs(spec.PVs)
	if err != nil {
		return nil, err
	}
	args = append(append(append(args, tags...), g.name), pvs...)
	notes, err := g.change(ctx, "lvcreate", args...)
	if err != nil {
		return nil, err
	}
	return &Result{[]string{spec.Name}, notes}, nil
}

// newName checks the name of a volume that is to be.
func newName(model *volume.Group, name string) error {
	if err := volume.CheckLVName(name); err != nil {
		return err
	}
	if model.LV(name) != nil {
		return errs.E(errs.Exists, "Logical Volume %q already exists in volume group %q", name, model.Name)
	}
	return nil
}

// RemoveLVs removes volumes; an origin's snapshots go with it, and are named before
// it in what is returned.
func (g *Group) RemoveLVs(ctx context.Context, names []string) (*Result, error) {
	model, err := g.o.Read(ctx)
	if err != nil {
		return nil, err
	}
	var lvs []*volume.LV
	for _, name := range names {
		lv, err := model.FindLV(name)
		if err != nil {
			return nil, err
		}
		lvs = append(lvs, lv)
		for _, s := range model.SnapshotsOf(lv) {
			lvs = append(lvs, s.Cow)
		}
	}
	for _, lv := range lvs {
		if err := g.notInUse(lv); err != nil {
			return nil, err
		}
	}
	r := &Result{}
	for _, name := range names {
		if slices.Contains(r.Names, name) {
			continue // with its origin
		}
		notes, err := g.change(ctx, "lvremove", g.full(name))
		if err != nil {
			return r, err
		}
		for _, s := range model.SnapshotsOf(model.LV(name)) {
			if !slices.Contains(r.Names, s.Cow.Name) {
				r.Names = append(r.Names, s.Cow.Name)
			}
		}
		r.Names, r.Notes = append(r.Names, name), append(r.Notes, notes...)
	}
	return r, nil
}

// notInUse refuses a volume that somebody has open.
func (g *Group) notInUse(lv *volume.LV) error {
	c, err := devmapper.Open()
	if err != nil {
		return err
	}
	defer c.Close()
	info, err := c.Info(g.uuid(lv, devmapper.LayerNone))
	if errs.Is(err, errs.NotFound) || err == nil && info.Opens == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	return errBusy(g.full(lv.Name), info)
}

// errBusy says who has a volume open.
func errBusy(name string, info devmapper.Info) error {
	err := errs.E(errs.Busy, "Logical volume %s in use.", name)
	if who := holders(freeze.Device{Major: info.Major, Minor: info.Minor}); len(who) > 0 {
		return errs.WithHint(err, "It is %s.", strings.Join(who, ", "))
	}
	return err
}

// ExtendLV makes a volume or a snapshot's store larger.
func (g *Group) ExtendLV(ctx context.Context, spec volume.ExtendSpec) (*Result, error) {
	if _, _, err := g.find(ctx, spec.Name); err != nil {
		return nil, err
	}
	sign := ""
	if spec.Relative {
		sign = "+"
	}
	pvs, err := pvArgs(spec.PVs)
	if err != nil {
		return nil, err
	}
	args := append(append(sizeArgs(spec.Size, sign), g.full(spec.Name)), pvs...)
	notes, err := g.change(ctx, "lvextend", args...)
	if err != nil {
		return nil, err
	}
	return &Result{[]string{spec.Name}, notes}, nil
}

// SetReadOnly changes a volume's permission.
func (g *Group) SetReadOnly(ctx context.Context, name string, readOnly bool) (*Result, error) {
	_, lv, err := g.find(ctx, name)
	if err != nil {
		return nil, err
	}
	if lv.ReadOnly() == readOnly {
		return &Result{Names: []string{name}}, nil
	}
	return g.alter(ctx, name, permissionArg(readOnly)...)
}

// ChangeTags adds tags to a volume and removes others.
func (g *Group) ChangeTags(ctx context.Context, name string, add, remove []string) (*Result, error) {
	if _, _, err := g.find(ctx, name); err != nil {
		return nil, err
	}
	added, err := tagArgs("--addtag", add)
	if err != nil {
		return nil, err
	}
	removed, err := tagArgs("--deltag", remove)
	if err != nil {
		return nil, err
	}
	if len(added)+len(removed) == 0 {
		return &Result{Names: []string{name}}, nil
	}
	return g.alter(ctx, name, append(removed, added...)...)
}

func (g *Group) alter(ctx context.Context, name string, options ...string) (*Result, error) {
	notes, err := g.change(ctx, "lvchange", append(options, g.full(name))...)
	if err != nil {
		return nil, err
	}
	return &Result{[]string{name}, notes}, nil
}

// Activate makes volumes available; no names means all.
func (g *Group) Activate(ctx context.Context, names ...string) (*Result, error) {
	return g.switchOn(ctx, "y", names)
}

// Deactivate takes volumes away. One that is in use is refused.
func (g *Group) Deactivate(ctx context.Context, names ...string) (*Result, error) {
	model, err := g.o.Read(ctx)
	if err != nil {
		return nil, err
	}
	for _, lv := range model.Visible() {
		if len(names) > 0 && !slices.Contains(names, lv.Name) {
			continue
		}
		if err := g.notInUse(lv); err != nil {
			return nil, err
		}
	}
	return g.switchOn(ctx, "n", names)
}

func (g *Group) switchOn(ctx context.Context, value string, names []string) (*Result, error) {
	if len(names) == 0 {
		notes, err := g.change(ctx, "vgchange", "--activate", value, g.name)
		if err != nil {
			return nil, err
		}
		return &Result{Notes: notes}, nil
	}
	var full []string
	for _, name := range names {
		if _, _, err := g.find(ctx, name); err != nil {
			return nil, err
		}
		full = append(full, g.full(name))
	}
	notes, err := g.change(ctx, "lvchange", append([]string{"--activate", value}, full...)...)
	if err != nil {
		return nil, err
	}
	return &Result{names, notes}, nil
}

// Merge begins to merge a snapshot into its origin. While one of the two is in
// use lvm2 only notes down that it is to be done, and it begins when the origin
// is activated next; the remarks then say who uses it and what to do.
func (g *Group) Merge(ctx context.Context, snapshot string) (*Result, error) {
	model, lv, err := g.find(ctx, snapshot)
	if err != nil {
		return nil, err
	}
	s, ok := model.SnapshotOf(lv)
	if !ok {
		return nil, errs.E(errs.Usage, "Logical volume %q is not a snapshot.", g.full(snapshot))
	}
	if s.Segment.Merging {
		return nil, g.errMerging(model, s)
	}
	// In the background: lvconvert would stay until the merge is done.
	if _, err := g.change(ctx, "lvconvert", "--merge", "--background", g.full(snapshot)); err != nil {
		return nil, err
	}
	r := &Result{Names: []string{snapshot}}
	model, err = g.o.Read(ctx)
	if err != nil {
		return r, err
	}
	running, err := Running(model)
	if err != nil {
		return r, err
	}
	if now := running[snapshot]; now.Cow != nil && now.Cow.Delayed {
		r.Notes = append(r.Notes, g.whyDelayed(s, running)...)
	}
	return r, nil
}

// errMerging says of a merge that was asked for before whether it is under way, or
// what it waits for.
func (g *Group) errMerging(model *volume.Group, s volume.Snap) error {
	err := errs.E(errs.Conflict, "Snapshot %s is already merging.", g.full(s.Cow.Name))
	running, why := Running(model)
	now := running[s.Cow.Name]
	switch {
	case why != nil || now.Cow == nil:
		return errs.WithHint(err, "It goes on when %s is active: lvchange -ay %[1]s", g.full(s.Origin.Name))
	case now.Cow.Delayed:
		return errs.WithHint(err, "%s", strings.Join(g.whyDelayed(s, running), "\n"))
	case now.Cow.MergeFailed:
		return errs.WithHint(err, "It does not go on: %s. When that is mended: lvchange -an %s, lvchange -ay %[2]s.", now.Cow.Reason, g.full(s.Origin.Name))
	}
	return errs.WithHint(err, "It is under way; lvs -a -o+snap_percent %s shows what is left.", g.name)
}

// whyDelayed says what a merge waits for.
func (g *Group) whyDelayed(s volume.Snap, running map[string]LV) []string {
	origin := g.full(s.Origin.Name)
	notes := []string{fmt.Sprintf("Merging of snapshot %s will occur on next activation of %s.", g.full(s.Cow.Name), origin)}
	info := running[s.Origin.Name].Info
	if who := holders(freeze.Device{Major: info.Major, Minor: info.Minor}); len(who) > 0 {
		notes = append(notes, fmt.Sprintf("%s is %s.", origin, strings.Join(who, ", ")))
	}
	return append(notes, fmt.Sprintf("When nobody uses it any more: lvchange -an %s, lvchange -ay %s. Otherwise the merge begins at the next boot.", origin, origin))
}

// AddPVs adds physical volumes; what is none becomes one.
func (g *Group) AddPVs(ctx context.Context, paths []string) (*Result, error) {
	return g.pvs(ctx, "vgextend", paths)
}

// RemovePVs takes physical volumes out that nothing lies on.
func (g *Group) RemovePVs(ctx context.Context, paths []string) (*Result, error) {
	return g.pvs(ctx, "vgreduce", paths)
}

// ResizePV has a physical volume take over its device's size, or what is given
// in bytes, if that is not 0.
func (g *Group) ResizePV(ctx context.Context, path string, size int64) (*Result, error) {
	if err := checkDisk(path); err != nil {
		return nil, err
	}
	var args []string
	if size != 0 {
		args = []string{"-y", "--setphysicalvolumesize", fmt.Sprintf("%db", size)}
	}
	notes, err := g.change(ctx, "pvresize", append(args, path)...)
	if err != nil {
		return nil, err
	}
	// That it was done says whoever asked for it.
	notes = slices.DeleteFunc(notes, func(n string) bool {
		return strings.HasPrefix(n, "Physical volume ") || strings.Contains(n, "resized or updated")
	})
	return &Result{[]string{path}, notes}, nil
}

// checkDisk refuses what lvm2 does not look at.
func checkDisk(path string) error {
	if !strings.HasPrefix(path, "/dev/") {
		return errs.E(errs.Unsupported, "%s is no block device: lvm2 cannot use it.", path)
	}
	return nil
}

func (g *Group) pvs(ctx context.Context, command string, paths []string) (*Result, error) {
	for _, p := range paths {
		if err := checkDisk(p); err != nil {
			return nil, err
		}
	}
	notes, err := g.change(ctx, command, append([]string{g.name}, paths...)...)
	if err != nil {
		return nil, err
	}
	return &Result{paths, notes}, nil
}

// RemoveGroup removes the group with its volumes.
func (g *Group) RemoveGroup(ctx context.Context) (*Result, error) {
	notes, err := g.change(ctx, "vgremove", g.name)
	if err != nil {
		return nil, err
	}
	return &Result{[]string{g.name}, notes}, nil
}
