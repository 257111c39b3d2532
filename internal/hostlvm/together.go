package hostlvm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"cowl/internal/devmapper"
	"cowl/internal/errs"
	"cowl/internal/freeze"
	"cowl/internal/volume"
)

// Several snapshots show one instant if no volume is written to between the
// first and the last one. lvm2 takes one at a time, so all origins are held
// around that:
//
//  1. What is dirty is written back, and file systems that stand on an origin with
//     something between (encryption, say) are frozen by FIFREEZE.
//  2. Every origin's device is suspended, and the file system on it is frozen with
//     it. From here on nothing is written to any of them.
//     If other groups share the instant, it is their turn here.
//  3. lvcreate takes the snapshots. That of an origin which is suspended already
//     it takes without suspending, and resumes the origin as its last step; the
//     instant was before.
//  4. What is held yet is let go.
//
// To freeze the file systems on the origins by FIFREEZE instead would be
// gentler, since reads would go on; but before Linux 6.8 the kernel does not
// freeze twice, and lvm2's own suspending fails in the middle of its work.
//
// A suspended device does not answer reads. So the one origin with the files that
// lvm2 itself needs, the root file system mostly, is not held: its snapshot is
// taken first, by lvm2's own suspending, while all others are still. Nor is a thin
// volume: lvm2 tells its pool of a snapshot when it resumes what it has suspended
// itself, and one that it finds suspended it leaves with metadata that the pool
// does not know (seen with 2.03.16).
//
// If anything fails, all is let go and the snapshots are removed. If this process
// is killed or takes too long, package freeze's guard lets go.

// holdMore is how much longer volumes may be held for each one above four.
const holdMore = 2 * time.Second

// together takes snapshots at one instant. A limit of 0 is one that fits. held
// may be nil.
func (g *Group) together(ctx context.Context, model *volume.Group, plan []planned, limit time.Duration, held func(context.Context) error) (notes []string, err error) {
	hold, order, err := g.holdPlan(model, plan)
	if err != nil {
		return nil, err
	}
	if hold.Limit = limit; limit == 0 {
		hold.Limit = freeze.DefaultLimit + time.Duration(max(0, len(plan)-4))*holdMore
	}
	if held != nil {
		if err := g.holdable(hold); err != nil {
			return nil, err
		}
	}
	if err := g.o.Guard(ctx); err != nil {
		return nil, err
	}
	h, err := freeze.New(ctx, hold.Plan)
	if err != nil {
		return nil, fmt.Errorf("hold the volumes of %s for one instant: %w", g.name, err)
	}
	if held != nil {
		if err = held(ctx); err != nil {
			order = nil
		}
	}
	for _, p := range order {
		var more []string
		if more, err = g.take(ctx, p); err != nil {
			break
		}
		notes = append(notes, more...)
	}
	took := h.For()
	// That the guard was faster is why lvcreate failed, if it did.
	if released := h.Release(); !errs.Is(err, errs.Conflict) {
		err = errors.Join(err, released)
	}
	if err != nil && order != nil {
		err = errors.Join(err, g.rollBack(ctx, plan))
	}
	if err != nil {
		return nil, err
	}
	g.o.Log.Info("volumes were held for one instant", "group", g.name, "volumes", len(plan), "for", took)
	return append(notes, fmt.Sprintf("%s held for %.1f s, for one instant.", g.countText(plan), took.Seconds())), nil
}

// holdable refuses volumes that cannot be held while other groups take snapshots.
func (g *Group) holdable(hold holding) error {
	if len(hold.unheld) == 0 {
		return nil
	}
	return errs.WithHint(errs.E(errs.Unsupported, "%s cannot be held for other groups: %s", g.full(hold.unheld[0]), hold.why),
		"Take its snapshot by itself.")
}

// rehearse has lvm2 try each snapshot. All that could keep them from being of one
// instant is looked at as well.
func (g *Group) rehearse(ctx context.Context, model *volume.Group, plan []planned, held func(context.Context) error) (notes []string, err error) {
	if len(plan) > 1 || held != nil {
		hold, order, err := g.holdPlan(model, plan)
		if err == nil && held != nil {
			err = g.holdable(hold)
		}
		if err != nil {
			return nil, err
		}
		plan = order
	}
	for _, p := range plan {
		more, err := g.take(ctx, p)
		if err != nil {
			return nil, err
		}
		notes = append(notes, more...)
	}
	if held != nil {
		err = held(ctx)
	}
	return notes, err
}

// countText names one volume, and counts several.
func (g *Group) countText(plan []planned) string {
	if len(plan) == 1 {
		return g.full(plan[0].origin.Name) + " was"
	}
	return fmt.Sprintf("%d volumes of %s were", len(plan), g.name)
}

// Unholdable reports whether one of the origins cannot be held: files that lvm2
// needs are on it, or it is a thin volume. Of the groups that share an instant one may have
// such a volume: that which takes its snapshots first.
func (g *Group) Unholdable(ctx context.Context, specs []volume.SnapshotSpec) (bool, error) {
	model, err := g.o.Read(ctx)
	if err != nil {
		return false, err
	}
	var plan []planned
	for _, s := range specs {
		lv, err := model.FindLV(s.Origin)
		if err != nil {
			return false, err
		}
		plan = append(plan, planned{origin: lv})
	}
	hold, _, err := g.holdPlan(model, plan)
	return len(hold.unheld) > 0, err
}

// holding is what is held, and which origins are not.
type holding struct {
	freeze.Plan
	unheld []string
	why    string // the reason of the last of them
}

// holdPlan says what is held, and in which order the snapshots are taken. An
// origin is held once, however many snapshots are taken of it: but only the first
// of these comes before lvm2 resumes it.
func (g *Group) holdPlan(model *volume.Group, plan []planned) (hold holding, order []planned, err error) {
	seen := map[string]bool{}
	for _, p := range plan {
		if seen[p.origin.Name] {
			return hold, nil, errs.E(errs.Unsupported, "two snapshots of %s at one instant: lvm2 takes one at a time.", g.full(p.origin.Name))
		}
		seen[p.origin.Name] = true
	}
	running, err := Running(model)
	if err != nil {
		return hold, nil, err
	}
	var first, rest []planned
	for _, p := range plan {
		lv, active := running[p.origin.Name]
		if !active {
			rest = append(rest, p)
			continue
		}
		on, err := standingOn(lv.Info)
		if err != nil {
			return hold, nil, err
		}
		if why := g.whyUnheld(p.origin, on); why != "" {
			first = append(first, p)
			hold.unheld, hold.why = append(hold.unheld, p.origin.Name), why
			continue
		}
		hold.Mounts = append(hold.Mounts, on.indirect...)
		hold.Devices = append(hold.Devices, g.uuid(p.origin, devmapper.LayerNone))
		rest = append(rest, p)
	}
	if len(first) > 1 {
		var names []string
		for _, p := range first {
			names = append(names, g.full(p.origin.Name))
		}
		return hold, nil, errs.WithHint(errs.E(errs.Unsupported, "%s cannot show one instant: they cannot be held still (of the last one, %s), and at most one such volume can be part of it.",
			strings.Join(names, " and "), hold.why), "Take their snapshots one after the other, each with a command of its own.")
	}
	hold.Mounts = freeze.Order(hold.Mounts)
	return hold, append(first, rest...), nil
}

// whyUnheld says why a volume must not be held while lvm2 takes its snapshot, ""
// if it may be.
func (g *Group) whyUnheld(origin *volume.LV, on standing) string {
	switch {
	case origin.IsThin():
		return "lvm2 has to suspend a thin volume itself"
	case on.needed(g.lvm.path):
		return "files that lvm2 needs are on it"
	}
	return ""
}
