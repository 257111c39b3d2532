// Package quiet has applications and file systems rest while snapshots of their
// volumes are taken, so that what was written before is in the snapshots: without
// it a snapshot shows what a power cut would have left.
//
// Applications are told by hooks, file systems that are mounted from a volume's
// file are frozen. A file system on a volume that the kernel runs is frozen by
// the kernel itself; see package hostlvm.
//
// To freeze a file system writes what is dirty, through a loop device and FUSE, to
// the process that owns the group. That is another one than ours and waits for
// nothing of ours meanwhile, so the two do not wait for each other.
package quiet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"cowl/internal/errs"
	"cowl/internal/freeze"
	"cowl/internal/manager"
)

// Volumes are volumes of one group.
type Volumes struct {
	Group manager.Group
	LVs   []string
}

// Plan says what rests.
type Plan struct {
	// Volumes are those of which snapshots are taken: file systems that are
	// mounted from their files are frozen, unless NoFreeze is set.
	Volumes  []Volumes
	NoFreeze bool
	Hooks    Hooks
	Subject  Subject
	// Warn hears at once what did not come to rest and what that means. The
	// snapshots are taken all the same.
	Warn func(text string)
}

// Pause is what was held still while the snapshots were taken.
type Pause struct {
	Frozen       []string `json:"frozen,omitempty"` // mount points
	QuietSeconds float64  `json:"quiet_seconds,omitempty"`
}

// String says it in a sentence, "" if nothing was frozen.
func (p Pause) String() string {
	if len(p.Frozen) == 0 {
		return ""
	}
	took := time.Duration(p.QuietSeconds * float64(time.Second)).Round(time.Millisecond)
	return fmt.Sprintf("Frozen while the snapshots were taken: %s (%v).", strings.Join(p.Frozen, ", "), took)
}

// While takes the snapshots while everything rests:
//
//  1. hook before-snapshot, which brings applications to rest;
//  2. file systems that are mounted from the volumes are frozen;
//  3. take is called, which takes the snapshots, at one instant;
//  4. file systems go on;
//  5. hook after-snapshot, whatever became of 1 to 4, and of this process.
//
// The error is take's, or that of what came before it: take was not called then. If
// it is only warnings (errs.OnlyWarnings), the snapshots are there.
func While(ctx context.Context, p Plan, take func(context.Context) error) (pause Pause, err error) {
	began := time.Now()
	by, err := p.Hooks.newStandby(p.Subject)
	if err != nil {
		return pause, err
	}
	var late error
	if err = p.Hooks.runWatched(ctx, by, BeforeSnapshot, p.Subject); err == nil {
		pause.Frozen, late, err = p.frozen(ctx, take)
	}
	// Not to be interrupted: somebody waits for it to go on.
	after := p.Hooks.runWatched(context.WithoutCancel(ctx), by, AfterSnapshot, p.Subject, ResultEnv(err)...)
	by.dismiss()
	if len(pause.Frozen) > 0 || p.Hooks.Commands[BeforeSnapshot] != "" {
		pause.QuietSeconds = time.Since(began).Seconds()
	}
	if err != nil {
		return pause, errors.Join(err, after)
	}
	return pause, errors.Join(errs.Warning(late), errs.Warning(after))
}

// frozen is steps 2 to 4 of While. late is what went wrong though take succeeded.
func (p Plan) frozen(ctx context.Context, take func(context.Context) error) (points []string, late, err error) {
	mounts, err := p.mounts(ctx)
	if err != nil {
		return nil, nil, err
	}
	if len(mounts) == 0 {
		return nil, nil, take(ctx)
	}
	for _, m := range mounts {
		points = append(points, m.Point)
	}
	hold, err := hold(ctx, mounts)
	if ctx.Err() != nil {
		if err == nil {
			_ = hold.Release() // nothing was taken that it could be too late for
		}
		return nil, nil, context.Cause(ctx)
	}
	if err != nil {
		p.Warn(fmt.Sprintf("%s: not frozen (%v). What was written there lately may be missing in the snapshots, as after a power cut.", strings.Join(points, ", "), err))
		return nil, nil, take(ctx)
	}
	err = take(ctx)
	return points, hold.Release(), err
}

// hold freezes the file systems.
func hold(ctx context.Context, mounts []freeze.Mount) (*freeze.Hold, error) {
	if os.Geteuid() != 0 {
		return nil, errs.E(errs.Denied, "that needs root")
	}
	return freeze.New(ctx, freeze.Plan{Mounts: mounts})
}

// mounts are the file systems that are mounted from files of the volumes.
func (p Plan) mounts(ctx context.Context) ([]freeze.Mount, error) {
	if p.NoFreeze {
		return nil, nil
	}
	var devices []freeze.Device
	for _, v := range p.Volumes {
		st, err := v.Group.Status(ctx)
		if err != nil {
			return nil, err
		}
		for _, lv := range v.LVs {
			devices = append(devices, loopsOver(st.LVs[lv].File)...)
		}
	}
	return freeze.Mounts(devices...)
}
