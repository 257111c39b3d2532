package backup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cowl/internal/errs"
	"cowl/internal/freeze"
	"cowl/internal/manager"
)

// Quiet is what was held still while the snapshots were taken.
type Quiet struct {
	Frozen       []string `json:"frozen,omitempty"` // mount points
	QuietSeconds float64  `json:"quiet_seconds,omitempty"`
}

// takeQuietly takes the snapshots while applications and file systems rest:
//
//  1. hook before-snapshot, which brings applications to rest;
//  2. file systems that are mounted from the volumes are frozen;
//  3. the snapshots are taken, at one instant;
//  4. file systems go on;
//  5. hook after-snapshot, whatever became of 1 to 4, and of this process.
//
// warned is what went wrong though there are snapshots.
func (s *set[R]) takeQuietly(ctx context.Context) (notes []string, q Quiet, warned, err error) {
	began := time.Now()
	by, err := s.hooks.newStandby(s.hookEnv(resultEnv(errKilled)...))
	if err != nil {
		return nil, q, nil, err
	}
	err = s.hooks.runWatched(ctx, BeforeSnapshot, s.hookEnv(), by)
	if err == nil {
		notes, warned, err = s.takeFrozen(ctx, &q)
	}
	// Not to be interrupted: somebody waits for it to go on.
	after := s.hooks.runWatched(context.WithoutCancel(ctx), AfterSnapshot, s.hookEnv(resultEnv(err)...), by)
	by.dismiss()
	if len(q.Frozen) > 0 || s.hooks.Commands[BeforeSnapshot] != "" {
		q.QuietSeconds = time.Since(began).Seconds()
	}
	if err != nil {
		return notes, q, nil, errors.Join(err, after)
	}
	return notes, q, errors.Join(warned, warning(after)), nil
}

// takeFrozen is steps 2 to 4 of takeQuietly.
func (s *set[R]) takeFrozen(ctx context.Context, q *Quiet) (notes []string, warned, err error) {
	mounts, err := s.mounts(ctx)
	if err != nil {
		return nil, nil, err
	}
	if len(mounts) == 0 {
		notes, err = s.take(ctx)
		return notes, nil, err
	}
	hold, err := freeze.New(ctx, freeze.Plan{Mounts: mounts})
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	if err != nil { // the snapshots show one instant all the same
		s.warn("file systems are not frozen: " + err.Error())
		notes, err = s.take(ctx)
		return notes, nil, err
	}
	notes, err = s.take(ctx)
	late := hold.Release()
	for _, m := range mounts {
		q.Frozen = append(q.Frozen, m.Point)
	}
	return notes, warning(late), err
}

// warn is for the person who watches, and for the report.
func (s *set[R]) warn(text string) {
	s.report.Notes = append(s.report.Notes, text)
	s.note(text)
}

// mounts are the file systems that are mounted from files of the volumes.
func (s *set[R]) mounts(ctx context.Context) ([]freeze.Mount, error) {
	if s.noFreeze {
		return nil, nil
	}
	var devices []freeze.Device
	for sources := range ofOneGroup(s.sources()) {
		st, err := sources[0].g.Status(ctx)
		if err != nil {
			return nil, err
		}
		for _, src := range sources {
			if src.own {
				devices = append(devices, loopsOver(st.LVs[src.lv.Name])...)
			}
		}
	}
	mounts, err := freeze.Mounts(devices...)
	if len(mounts) > 0 && os.Geteuid() != 0 {
		s.warn("file systems are mounted from the volumes, and not frozen: that needs root")
		return nil, nil
	}
	return mounts, err
}

// sysBlock is where Linux describes block devices. Elsewhere there is nothing.
const sysBlock = "/sys/class/block"

// loopsOver returns the loop devices over a volume's file, with their partitions
// and what stands on either (an encrypted volume, say).
func loopsOver(rt manager.LVStatus) (out []freeze.Device) {
	want, err := os.Stat(rt.File)
	if rt.File == "" || err != nil {
		return nil
	}
	found, _ := filepath.Glob(sysBlock + "/loop*/loop/backing_file")
	for _, path := range found {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // detached meanwhile
		}
		if st, err := os.Stat(strings.TrimSuffix(string(text), "\n")); err == nil && os.SameFile(st, want) {
			out = append(out, deviceTree(filepath.Dir(filepath.Dir(path)))...)
		}
	}
	return out
}

// deviceTree returns a device of sysBlock with its partitions and what stands on
// them. The kernel sees to it that nothing stands on itself.
func deviceTree(dir string) []freeze.Device {
	text, err := os.ReadFile(filepath.Join(dir, "dev"))
	major, minor, ok := strings.Cut(strings.TrimSpace(string(text)), ":")
	a, errA := strconv.ParseUint(major, 10, 32)
	b, errB := strconv.ParseUint(minor, 10, 32)
	if !ok || errors.Join(err, errA, errB) != nil {
		return nil
	}
	out := []freeze.Device{{Major: uint32(a), Minor: uint32(b)}}
	parts, _ := filepath.Glob(filepath.Join(dir, filepath.Base(dir)+"*", "partition"))
	for _, p := range parts {
		out = append(out, deviceTree(filepath.Dir(p))...)
	}
	holders, _ := filepath.Glob(filepath.Join(dir, "holders", "*"))
	for _, h := range holders {
		out = append(out, deviceTree(filepath.Join(sysBlock, filepath.Base(h)))...)
	}
	return out
}

// hook runs the hook of a stage.
func (s *set[R]) hook(ctx context.Context, stage Stage, env ...string) error {
	return s.hooks.run(ctx, stage, s.hookEnv(env...))
}

// hookEnv is what all hooks are told, and more.
func (s *set[R]) hookEnv(env ...string) []string {
	var groups, volumes []string
	for _, m := range s.members {
		src := m.source()
		if src == nil {
			continue // it could not be prepared
		}
		if volumes = append(volumes, fullName(src)); !slices.Contains(groups, src.vg.Name) {
			groups = append(groups, src.vg.Name)
		}
	}
	return append([]string{
		"COWL_VG=" + strings.Join(groups, " "), "COWL_VOLUMES=" + strings.Join(volumes, " "),
		"COWL_TARGET=" + s.target, "COWL_INSTANT=" + s.report.Instant,
	}, env...)
}

// resultEnv says to a hook what became of what it was waiting for.
func resultEnv(err error) []string {
	switch {
	case err == nil:
		return []string{"COWL_RESULT=ok"}
	case OnlyWarnings(err):
		return []string{"COWL_RESULT=warning", "COWL_ERROR=" + oneLine(err)}
	}
	return []string{"COWL_RESULT=failed", "COWL_KIND=" + errs.KindOf(err).String(), "COWL_ERROR=" + oneLine(err)}
}

// oneLine is an error's text in one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// finish runs the last hook: after-backup, or on-failure.
func (s *set[R]) finish(ctx context.Context, err error) error {
	var places []string
	for _, b := range s.report.Backups {
		places = append(places, b.Place())
	}
	env := append(resultEnv(err), "COWL_BACKUPS="+strings.Join(places, "\n"))
	ctx = context.WithoutCancel(ctx)
	if err != nil && !OnlyWarnings(err) {
		return errors.Join(err, s.hook(ctx, OnFailure, env...))
	}
	return errors.Join(err, warning(s.hook(ctx, AfterBackup, env...)))
}
