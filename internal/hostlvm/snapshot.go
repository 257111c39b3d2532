package hostlvm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"cowl/internal/errs"
	"cowl/internal/volume"
)

// planned is a snapshot that is to be taken.
type planned struct {
	name   string
	origin *volume.LV
	tags   []string
	args   []string // of lvcreate
}

// CreateSnapshots takes snapshots of volumes at one instant: see together. lvm2
// itself freezes the file system on each origin while it takes its snapshot.
func (g *Group) CreateSnapshots(ctx context.Context, specs []volume.SnapshotSpec) (*Result, error) {
	return g.create(ctx, specs, g.o.HoldLimit, nil)
}

// CreateSnapshotsWhile is CreateSnapshots for an instant that others share: held
// is called when all origins are held, and they stay so until it has returned and
// the snapshots are taken, for as long as limit says. After an error there are no
// snapshots.
func (g *Group) CreateSnapshotsWhile(ctx context.Context, specs []volume.SnapshotSpec, limit time.Duration, held func(context.Context) error) (*Result, error) {
	return g.create(ctx, specs, limit, held)
}

func (g *Group) create(ctx context.Context, specs []volume.SnapshotSpec, limit time.Duration, held func(context.Context) error) (*Result, error) {
	model, err := g.o.Read(ctx)
	if err != nil {
		return nil, err
	}
	plan, notes, err := g.plan(model, specs)
	if err != nil {
		return nil, err
	}
	r := &Result{Notes: notes}
	for _, p := range plan {
		r.Names = append(r.Names, p.name)
	}
	switch {
	case g.test:
		notes, err = g.rehearse(ctx, model, plan, held)
	case len(plan) == 1 && held == nil:
		notes, err = g.take(ctx, plan[0])
		if err != nil {
			err = errors.Join(err, g.rollBack(ctx, plan))
		}
	default:
		notes, err = g.together(ctx, model, plan, limit, held)
	}
	if err != nil {
		return nil, err
	}
	for _, text := range notes {
		if !slices.Contains(r.Notes, text) {
			r.Notes = append(r.Notes, text)
		}
	}
	r.Notes = append(r.Notes, g.poolNotes(model, plan)...)
	if !g.test {
		g.keepPlanned(ctx, plan)
	}
	return r, nil
}

// keepPlanned keeps the snapshots that were made.
func (g *Group) keepPlanned(ctx context.Context, plan []planned) {
	model, err := g.o.Read(ctx)
	if err != nil {
		g.o.Log.Warn("new snapshots are not watched", "group", g.name, "err", err)
		return
	}
	for _, p := range plan {
		if lv := model.LV(p.name); lv != nil {
			g.keep(lv)
		}
	}
}

// plan makes lvcreate's arguments. Sizes are computed as for cowl's own groups,
// whose rules are lvm2's and which knows what to take where none is given; each
// snapshot counts with those before it.
func (g *Group) plan(model *volume.Group, specs []volume.SnapshotSpec) ([]planned, []string, error) {
	var plan []planned
	var notes []string
	next := model
	for _, spec := range specs {
		if lv := model.LV(spec.Origin); lv != nil && lv.IsThin() && spec.Size.IsZero() {
			p, err := g.planThin(next, lv, spec)
			if err != nil {
				return nil, nil, err
			}
			plan = append(plan, p)
			continue
		}
		if g.o.Advise != nil {
			g.o.Advise(next, &spec)
		}
		change, err := next.PlanSnapshot(unplaced(spec), stamp())
		if err != nil {
			return nil, nil, err
		}
		next = change.Group
		notes = append(notes, change.Notes...)
		made := next.LV(change.LVs[0])
		snap, _ := next.SnapshotOf(made)
		p := planned{name: made.Name, origin: model.LV(spec.Origin), tags: spec.Tags, args: []string{
			"--snapshot", "--name", made.Name,
			"--extents", strconv.FormatUint(uint64(made.Extents()), 10),
			"--chunksize", fmt.Sprintf("%db", snap.Segment.ChunkSize.Bytes()),
		}}
		p.args = append(p.args, permissionArg(spec.ReadOnly)...)
		tags, err := tagArgs("--addtag", spec.Tags)
		if err != nil {
			return nil, nil, err
		}
		pvs, err := pvArgs(spec.PVs)
		if err != nil {
			return nil, nil, err
		}
		p.args = append(append(append(p.args, tags...), g.full(spec.Origin)), pvs...)
		plan = append(plan, p)
		if text := g.onFull(made); text != "" && !slices.Contains(notes, text) {
			notes = append(notes, text)
		}
	}
	return plan, notes, nil
}

// planThin plans a snapshot in the pool of a thin volume, as lvm2 takes it where no
// size is given: it needs no space until something is written. lvm2 would leave
// it inactive.
func (g *Group) planThin(model *volume.Group, origin *volume.LV, spec volume.SnapshotSpec) (planned, error) {
	if spec.Name == "" {
		spec.Name = model.NextLVName()
	}
	if err := newName(model, spec.Name); err != nil {
		return planned{}, err
	}
	if len(spec.PVs) > 0 || spec.ChunkSize != 0 {
		return planned{}, errs.WithHint(errs.E(errs.Usage, "a snapshot of thin volume %s takes its space, and its chunk size, from pool %s", g.full(origin.Name), origin.Pool()),
			"With a size (-L) it gets a COW store of its own, outside of the pool.")
	}
	tags, err := tagArgs("--addtag", spec.Tags)
	if err != nil {
		return planned{}, err
	}
	args := []string{"--snapshot", "--name", spec.Name, "--setactivationskip", "n", "--activate", "y"}
	args = append(append(args, permissionArg(spec.ReadOnly)...), tags...)
	return planned{name: spec.Name, origin: origin, tags: spec.Tags, args: append(args, g.full(origin.Name))}, nil
}

// onFull says that a snapshot cannot have the policy for a full store that it
// should have: the kernel knows one only.
func (g *Group) onFull(lv *volume.LV) string {
	p := lv.GrowthOf(g.o.Growth).OnFull
	if p == "" || p == volume.OnFullInvalidate {
		return ""
	}
	return fmt.Sprintf("WARNING: The kernel runs volume group %s, and gives snapshots up that are full: %q is for groups that cowl runs.", g.name, p)
}

// unplaced is a spec without the PVs that it is limited to: where extents go is
// lvm2's to say.
func unplaced(spec volume.SnapshotSpec) volume.SnapshotSpec {
	spec.PVs = nil
	return spec
}

// stamp is for models that are only computed with.
func stamp() volume.Stamp {
	return volume.Stamp{Time: time.Now().Unix(), NewID: func() volume.UUID {
		var b [32]byte
		_, _ = rand.Read(b[:]) // never fails
		return volume.UUIDFrom(b)
	}}
}

// take takes one snapshot.
func (g *Group) take(ctx context.Context, p planned) ([]string, error) {
	notes, err := g.change(ctx, "lvcreate", p.args...)
	if err != nil {
		return nil, fmt.Errorf("snapshot of %s: %w", g.full(p.origin.Name), err)
	}
	return slices.DeleteFunc(notes, isOverprovisioned), nil
}

// cleanupTime bounds what is still done after something has failed.
const cleanupTime = 2 * time.Minute

// rollBack removes snapshots that were taken, or what a failed attempt left of
// them: lvm2 makes the store as a volume first.
func (g *Group) rollBack(ctx context.Context, plan []planned) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	model, err := g.o.Read(ctx)
	if err != nil {
		return err
	}
	var problems []error
	for _, p := range plan {
		// The name was free before, so a volume that bears our tags is ours.
		lv := model.LV(p.name)
		if lv == nil || !sameTags(lv.Tags, p.tags) {
			continue
		}
		if _, err := g.change(ctx, "lvremove", g.full(p.name)); err != nil {
			problems = append(problems, errs.WithHint(fmt.Errorf("%s was left behind: %w", g.full(p.name), err), "Remove it with: lvremove %s", g.full(p.name)))
		}
	}
	return errors.Join(problems...)
}

func sameTags(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}
