package quiet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"cowl/internal/errs"
)

// Stage is when a hook is run.
type Stage string

// The stages, in the order in which they come.
const (
	BeforeSnapshot Stage = "before-snapshot" // nothing is there yet; a failure ends it all
	AfterSnapshot  Stage = "after-snapshot"  // always, once before-snapshot was
	AfterBackup    Stage = "after-backup"    // all of the backups are good
	OnFailure      Stage = "on-failure"      // one at least is not
)

// DefaultHookLimit is how long a hook may take where nobody says otherwise.
const DefaultHookLimit = time.Minute

// Hooks are commands of the shell that are run while snapshots are taken and volumes
// are backed up, "" for none. docs/cli.md has what they find in their environment.
//
// What before-snapshot has brought to rest, after-snapshot lets go on: it is run
// also when before-snapshot failed or took too long, when there is no snapshot,
// when the backup was interrupted, and by the standby when it was killed.
type Hooks struct {
	Commands map[Stage]string
	Limit    time.Duration // of each; 0 is DefaultHookLimit
	Output   io.Writer     // where what they print goes; nil: nowhere
}

// hookTail is how much of what a hook printed stands in the error.
const hookTail = 1 << 10

// endTime is how long a hook's children may keep its output open when it has
// ended.
const endTime = time.Second

// Subject is what hooks are told about what is going on.
type Subject struct {
	Volumes         []string // as VG/LV
	Target, Instant string   // "" where there is none
}

// env is the subject in a hook's environment.
func (s Subject) env() []string {
	var groups []string
	for _, name := range s.Volumes {
		if vg, _, _ := strings.Cut(name, "/"); !slices.Contains(groups, vg) {
			groups = append(groups, vg)
		}
	}
	return []string{
		"COWL_VG=" + strings.Join(groups, " "), "COWL_VOLUMES=" + strings.Join(s.Volumes, " "),
		"COWL_TARGET=" + s.Target, "COWL_INSTANT=" + s.Instant,
	}
}

// ResultEnv says to a hook what became of what it was waiting for.
func ResultEnv(err error) []string {
	switch {
	case err == nil:
		return []string{"COWL_RESULT=ok"}
	case errs.OnlyWarnings(err):
		return []string{"COWL_RESULT=warning", "COWL_ERROR=" + oneLine(err)}
	}
	return []string{"COWL_RESULT=failed", "COWL_KIND=" + errs.KindOf(err).String(), "COWL_ERROR=" + oneLine(err)}
}

// oneLine is an error's text in one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// environment is what the hook of a stage finds.
func (s Stage) environment(about Subject, more []string) []string {
	return slices.Concat(os.Environ(), []string{"COWL_STAGE=" + string(s)}, about.env(), more)
}

func (h *Hooks) limit() time.Duration {
	if h.Limit == 0 {
		return DefaultHookLimit
	}
	return h.Limit
}

// Run runs the hook of a stage, if there is one. more is added to its environment.
func (h *Hooks) Run(ctx context.Context, stage Stage, about Subject, more ...string) error {
	return h.runWatched(ctx, nil, stage, about, more...)
}

// runWatched tells a standby, which may be nil, which process the hook is.
func (h *Hooks) runWatched(ctx context.Context, by *standby, stage Stage, about Subject, more ...string) error {
	command := h.Commands[stage]
	if command == "" {
		return nil
	}
	limit := h.limit()
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	shell, flag := "/bin/sh", "-c"
	if runtime.GOOS == "windows" {
		shell, flag = "cmd", "/c"
	}
	cmd := exec.CommandContext(limited, shell, flag, command)
	cmd.Env = stage.environment(about, more)
	tail := &lastBytes{to: h.Output}
	cmd.Stdout, cmd.Stderr = tail, tail
	ownGroup(cmd)
	cmd.WaitDelay = endTime
	err := cmd.Start()
	if err == nil {
		by.watch(cmd.Process.Pid)
		err = cmd.Wait()
	}
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // it ended well, and left something running
		return nil
	case ctx.Err() != nil:
		err = fmt.Errorf("interrupted (%w)", context.Cause(ctx))
	case limited.Err() != nil:
		err = errs.WithHint(errs.E(errs.Other, "was not done within %v", limit), "Give hooks more time with --hook-timeout.")
	}
	if text := tail.text(); text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return fmt.Errorf("hook %s (%s): %w", stage, command, err)
}

// lastBytes passes on what is written, and keeps the end of it.
type lastBytes struct {
	mu   sync.Mutex // guards all below
	to   io.Writer  // nil: nowhere
	last []byte
}

// Write implements io.Writer. Where the bytes go to may fail without harm to the
// hook.
func (l *lastBytes) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.to != nil {
		_, _ = l.to.Write(b)
	}
	l.last = append(l.last, b[max(0, len(b)-hookTail):]...)
	l.last = bytes.Clone(l.last[max(0, len(l.last)-hookTail):])
	return len(b), nil
}

// text is the last line that says anything.
func (l *lastBytes) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(l.last)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
