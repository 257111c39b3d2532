package backup

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cowl/internal/errs"
	"cowl/internal/judge"
	"cowl/internal/quiet"
)

// noting makes hooks of all stages that note in a file what they are told.
func noting(t *testing.T, log string) quiet.Hooks {
	t.Helper()
	judge.NeedFile(t, "/bin/sh")
	h := quiet.Hooks{Commands: map[quiet.Stage]string{}}
	for _, stage := range []quiet.Stage{quiet.BeforeSnapshot, quiet.AfterSnapshot, quiet.AfterBackup, quiet.OnFailure} {
		h.Commands[stage] = `echo "$COWL_STAGE $COWL_VOLUMES $COWL_RESULT" >> '` + log + `'`
	}
	return h
}

func logged(t *testing.T, log string) []string {
	t.Helper()
	text, err := os.ReadFile(log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i]) // before-snapshot has no result
	}
	return lines
}

// Hooks come in order, around the moment of the snapshots.
func TestHooks(t *testing.T) {
	g, dir, log := newGroup(t), t.TempDir(), filepath.Join(t.TempDir(), "log")
	g.volumeOf("a", mib, 1)
	g.volumeOf("b", mib, 2)
	var then []string
	g.created = func() error { then = logged(t, log); return nil }
	r, err := RunAll(ctx, []Volumes{{g, []string{"a", "b"}}}, Options{Dir: dir, Hooks: noting(t, log)})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"before-snapshot vg-0/a vg-0/b"}; !slices.Equal(then, want) {
		t.Errorf("when the snapshots were taken: %q, want %q", then, want)
	}
	want := []string{"before-snapshot vg-0/a vg-0/b", "after-snapshot vg-0/a vg-0/b ok", "after-backup vg-0/a vg-0/b ok"}
	if got := logged(t, log); !slices.Equal(got, want) {
		t.Errorf("hooks %q, want %q", got, want)
	}
	if r.QuietSeconds <= 0 {
		t.Errorf("%+v", r.Pause)
	}
}

// What the environment says when all is over.
func TestHookEnvironment(t *testing.T) {
	judge.NeedFile(t, "/bin/sh")
	g, dir, log := newGroup(t), t.TempDir(), filepath.Join(t.TempDir(), "log")
	g.volumeOf("a", mib, 1)
	r, err := RunAll(ctx, []Volumes{{g, []string{"a"}}}, Options{Dir: dir, Hooks: quiet.Hooks{Commands: map[quiet.Stage]string{
		quiet.AfterBackup: `echo "$COWL_VG|$COWL_TARGET|$COWL_INSTANT|$COWL_RESULT|$COWL_ERROR|$COWL_BACKUPS" > '` + log + `'`,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	want := "vg-0|" + dir + "|" + r.Instant + "|ok||" + r.Backups[0].Image
	if got := logged(t, log); len(got) != 1 || got[0] != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Whatever fails: what before-snapshot stopped goes on, and on-failure hears of
// it.
func TestHooksOnFailure(t *testing.T) {
	for name, c := range map[string]struct {
		before  string // instead of the command that notes it
		created error
		volumes []string
		want    []string // stages and results
		kind    errs.Kind
	}{
		"hook before fails": {before: "echo no rest >&2; exit 3", want: []string{"after-snapshot failed", "on-failure failed"}, kind: errs.Other},
		"no snapshot": {created: errs.E(errs.NoSpace, "no room"),
			want: []string{"before-snapshot", "after-snapshot failed", "on-failure failed"}, kind: errs.NoSpace},
		"no volume": {volumes: []string{"nosuch"}, want: []string{"on-failure failed"}, kind: errs.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			g, dir, log := newGroup(t), t.TempDir(), filepath.Join(t.TempDir(), "log")
			g.volumeOf("a", mib, 1)
			if c.volumes == nil {
				c.volumes = []string{"a"}
			}
			hooks := noting(t, log)
			for stage := range hooks.Commands {
				hooks.Commands[stage] = strings.ReplaceAll(hooks.Commands[stage], "$COWL_VOLUMES ", "")
			}
			if c.before != "" {
				hooks.Commands[quiet.BeforeSnapshot] = c.before
			}
			g.created = func() error { return c.created }
			_, err := RunAll(ctx, []Volumes{{g, c.volumes}}, Options{Dir: dir, Hooks: hooks})
			if err == nil || errs.KindOf(err) != c.kind || errs.OnlyWarnings(err) {
				t.Errorf("error is %v", err)
			}
			if c.before != "" && !strings.Contains(err.Error(), "no rest") {
				t.Errorf("the error does not say what the hook did: %v", err)
			}
			got := logged(t, log)
			if !slices.Equal(got, c.want) {
				t.Errorf("hooks %q, want %q", got, c.want)
			}
			nothingLeft(t, g, dir)
		})
	}
}

// A hook that hangs is killed with its children, the backup fails, and what it
// may have stopped goes on.
func TestHookHangs(t *testing.T) {
	g, dir, log := newGroup(t), t.TempDir(), filepath.Join(t.TempDir(), "log")
	g.volumeOf("a", mib, 1)
	hooks := noting(t, log)
	hooks.Commands[quiet.BeforeSnapshot] = "sleep 1000 & echo waiting; wait"
	hooks.Limit = 300 * time.Millisecond
	var output bytes.Buffer
	hooks.Output = &output
	_, err := RunAll(ctx, []Volumes{{g, []string{"a"}}}, Options{Dir: dir, Hooks: hooks})
	if err == nil || !strings.Contains(err.Error(), "was not done within 300ms") || errs.HintOf(err) == "" {
		t.Errorf("error is %v", err)
	}
	if output.String() != "waiting\n" {
		t.Errorf("output %q", &output)
	}
	if got := logged(t, log); len(got) != 2 || !strings.HasPrefix(got[0], "after-snapshot") || !strings.HasPrefix(got[1], "on-failure") {
		t.Errorf("hooks %q", got)
	}
	nothingLeft(t, g, dir)
}

// A later hook that fails does not make a good backup a bad one.
func TestHookWarning(t *testing.T) {
	judge.NeedFile(t, "/bin/sh")
	for _, stage := range []quiet.Stage{quiet.AfterSnapshot, quiet.AfterBackup} {
		g, dir := newGroup(t), t.TempDir()
		g.volumeOf("a", mib, 1)
		r, err := Run(ctx, g, Options{LV: "a", Dir: dir, Hooks: quiet.Hooks{Commands: map[quiet.Stage]string{stage: "exit 1"}}})
		if !errs.OnlyWarnings(err) || !strings.Contains(err.Error(), string(stage)) {
			t.Errorf("%s: error is %v", stage, err)
		}
		if r == nil || !r.Verified || len(files(t, dir)) != 3 {
			t.Errorf("%s: %+v", stage, r)
		}
	}
}

// Interrupted during the pause: after-snapshot is run to its end.
func TestHookInterrupted(t *testing.T) {
	g, dir, log := newGroup(t), t.TempDir(), filepath.Join(t.TempDir(), "log")
	g.volumeOf("a", mib, 1)
	c, cancel := context.WithCancel(ctx)
	g.created = func() error { cancel(); return context.Canceled }
	if _, err := RunAll(c, []Volumes{{g, []string{"a"}}}, Options{Dir: dir, Hooks: noting(t, log)}); !errors.Is(err, ErrInterrupted) {
		t.Error(err)
	}
	got := logged(t, log)
	if len(got) != 3 || !strings.HasPrefix(got[1], "after-snapshot") || !strings.HasPrefix(got[2], "on-failure") {
		t.Errorf("hooks %q", got)
	}
	nothingLeft(t, g, dir)
}
