package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"cowl/internal/errs"
)

// Stage is when a hook is run.
type Stage string

// The stages, in the order in which they come.
const (
	BeforeSnapshot Stage = "before-snapshot" // nothing is there yet; a failure ends the backup
	AfterSnapshot  Stage = "after-snapshot"  // always, once before-snapshot was
	AfterBackup    Stage = "after-backup"    // all of the backups are good
	OnFailure      Stage = "on-failure"      // one at least is not
)

// DefaultHookLimit is how long a hook may take where nobody says otherwise.
const DefaultHookLimit = time.Minute

// Hooks are commands of the shell that are run while volumes are backed up, "" for
// none. docs/cli.md has what they find in their environment.
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

func (h *Hooks) limit() time.Duration {
	if h.Limit == 0 {
		return DefaultHookLimit
	}
	return h.Limit
}

// environment is what the hook of a stage finds.
func (s Stage) environment(env []string) []string {
	return append(append(os.Environ(), "COWL_STAGE="+string(s)), env...)
}

// run runs the hook of a stage, if there is one.
func (h *Hooks) run(ctx context.Context, stage Stage, env []string) error {
	return h.runWatched(ctx, stage, env, nil)
}

// runWatched tells a standby, which may be nil, which process the hook is.
func (h *Hooks) runWatched(ctx context.Context, stage Stage, env []string, by *standby) error {
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
	cmd.Env = stage.environment(env)
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
		err = fmt.Errorf("%w (%v)", ErrInterrupted, context.Cause(ctx))
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

// Warning is something that went wrong beside backups that are good.
type Warning struct{ Err error }

func (w *Warning) Error() string { return w.Err.Error() }
func (w *Warning) Unwrap() error { return w.Err }

// warning marks an error as one; nil stays nil.
func warning(err error) error {
	if err == nil {
		return nil
	}
	return &Warning{err}
}

// OnlyWarnings tells whether all that is in an error are warnings.
func OnlyWarnings(err error) bool {
	switch e := err.(type) {
	case nil:
		return false
	case *Warning:
		return true
	case interface{ Unwrap() []error }:
		for _, part := range e.Unwrap() {
			if !OnlyWarnings(part) {
				return false
			}
		}
		return len(e.Unwrap()) > 0
	case interface{ Unwrap() error }:
		return OnlyWarnings(e.Unwrap())
	}
	return false
}
