package freeze

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cowl/internal/devmapper"
	"cowl/internal/errs"
)

// The ioctls FIFREEZE and FITHAW, _IOWR('X', 119 and 120, int).
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// Hold is what is being held. It is used from one goroutine.
type Hold struct {
	steps []step
	done  int // steps that hold something
	guard *guard
	from  time.Time
}

// step is a thing that can be held. Both processes have the same list.
type step interface {
	// hold holds nothing after an error.
	hold() error
	// free may be called more than once. Where it can tell that nothing was held,
	// that is an error of kind errs.Conflict.
	free() error
	name() string
}

// New freezes and suspends what the plan names. After an error nothing is held.
// It needs root. The error is of kind errs.Busy if somebody else has frozen one
// of the file systems, and errs.Unsupported if one cannot be frozen, or this
// program did not begin with Guard.
//
// What is dirty is written before anything is held, so that the moment is short.
func New(ctx context.Context, p Plan) (*Hold, error) {
	if err := checkGuarded(); err != nil {
		return nil, err
	}
	steps, files, err := open(p)
	defer func() {
		for _, f := range files {
			if err != nil {
				f.Close()
			}
		}
	}()
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		// An error of the disk shows again when the file system is frozen.
		_ = unix.Syncfs(int(f.Fd()))
	}
	if err = ctx.Err(); err != nil {
		return nil, err
	}
	h := &Hold{steps: steps}
	if h.guard, err = startGuard(p, files); err != nil {
		return nil, err
	}
	h.from = time.Now()
	for _, s := range steps {
		if err = h.take(ctx, s); err != nil {
			err = errors.Join(err, h.Release())
			return nil, err
		}
	}
	return h, nil
}

// open makes the list of steps.
func open(p Plan) (steps []step, files []*os.File, err error) {
	for _, m := range p.Mounts {
		f, err := m.open()
		if err != nil {
			return nil, files, fmt.Errorf("freeze %s: %w", m.Point, err)
		}
		files = append(files, f)
		steps = append(steps, mountStep{f, m.Point})
	}
	for _, uuid := range p.Devices {
		steps = append(steps, deviceStep(uuid))
	}
	return steps, files, nil
}

// take holds one more thing. The guard hears of it before: if we are killed in
// between, it lets go of something that was not held, which does nothing.
func (h *Hold) take(ctx context.Context, s step) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := h.guard.say(strconv.Itoa(h.done + 1)); err != nil {
		return err
	}
	if err := s.hold(); err != nil {
		return err
	}
	h.done++
	return nil
}

// For returns for how long things have been held.
func (h *Hold) For() time.Duration { return time.Since(h.from) }

// Release lets everything go. It returns an error of kind errs.Conflict if
// something was let go of before, by the guard or by somebody else: then nothing
// is known of what was written meanwhile. It may be called once.
func (h *Hold) Release() error {
	if late := h.guard.stillHeld(); late != nil {
		_ = h.undo() // what it finds free already is the guard's work
		return errors.Join(late, h.guard.dismiss())
	}
	return errors.Join(h.undo(), h.guard.dismiss())
}

// undo goes backwards through the steps.
func (h *Hold) undo() error {
	var problems []error
	for i := h.done - 1; i >= 0; i-- {
		if err := h.steps[i].free(); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", h.steps[i].name(), err))
		}
	}
	h.done = 0
	for _, s := range h.steps {
		if m, ok := s.(mountStep); ok {
			m.f.Close()
		}
	}
	return errors.Join(problems...)
}

// mountStep freezes a file system.
type mountStep struct {
	f     *os.File
	point string
}

func (s mountStep) name() string { return "thaw " + s.point }

func (s mountStep) hold() error {
	err := s.ioctl(fiFreeze)
	switch {
	case errors.Is(err, unix.EBUSY):
		return errs.WithHint(errs.E(errs.Busy, "the file system on %s is frozen by somebody else", s.point), "fsfreeze --unfreeze %s lets it go.", s.point)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTTY):
		return errs.E(errs.Unsupported, "the file system on %s cannot be frozen", s.point)
	case err != nil:
		return fmt.Errorf("freeze %s: %w", s.point, err)
	}
	return nil
}

func (s mountStep) free() error {
	err := s.ioctl(fiThaw)
	if errors.Is(err, unix.EINVAL) {
		return errs.E(errs.Conflict, "the file system on %s was let go of by somebody else before", s.point)
	}
	return err
}

func (s mountStep) ioctl(number uintptr) error {
	for {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, s.f.Fd(), number, 0)
		if e == 0 {
			return nil
		}
		if e != unix.EINTR {
			return e
		}
	}
}

// deviceStep suspends a device-mapper device, named by its UUID. lvm2 resumes
// the origin of the snapshot that it makes: to resume it once more does nothing.
type deviceStep string

func (s deviceStep) name() string { return "resume " + string(s) }

func (s deviceStep) hold() error { return s.control((*devmapper.Control).Suspend) }

func (s deviceStep) free() error { return s.control((*devmapper.Control).Resume) }

func (s deviceStep) control(f func(*devmapper.Control, string) error) error {
	c, err := devmapper.Open()
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c, string(s))
}

// guard is this process's end of the guard.
type guard struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startGuard starts the guard and waits until it is ready. The files come in the
// order of the steps.
func startGuard(p Plan, files []*os.File) (*guard, error) {
	limit := cmp.Or(p.Limit, DefaultLimit)
	args := append([]string{guardArg, limit.String(), strconv.Itoa(len(files))}, p.Devices...)
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0] // what people see, and programs of several names go by
	cmd.Dir = "/"
	cmd.ExtraFiles = files
	// A Ctrl-C in the terminal is for cowl, which then lets go by itself.
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the guard of what is frozen: %w", err)
	}
	g := &guard{cmd, in, bufio.NewReader(out)}
	if answer, err := g.hear(); err != nil || answer != sayReady {
		return nil, errors.Join(errs.E(errs.Other, "the guard of what is frozen does not start: %q, %w", answer, cmp.Or(err, io.EOF)), g.dismiss())
	}
	return g, nil
}

// The words between the two processes, each a line.
const (
	sayReady = "ready"
	askHeld  = "held?"
	sayHeld  = "held"
	sayLate  = "late"
	sayEnd   = "end"
)

func (g *guard) say(line string) error {
	if _, err := io.WriteString(g.in, line+"\n"); err != nil {
		return fmt.Errorf("the guard of what is frozen has gone: %w", err)
	}
	return nil
}

func (g *guard) hear() (string, error) {
	line, err := g.out.ReadString('\n')
	return strings.TrimSuffix(line, "\n"), err
}

// stillHeld asks whether the guard has kept its hands off until now.
func (g *guard) stillHeld() error {
	if err := g.say(askHeld); err != nil {
		return err
	}
	switch answer, err := g.hear(); {
	case err != nil:
		return fmt.Errorf("the guard of what is frozen has gone: %w", err)
	case answer != sayHeld:
		return errLate
	}
	return nil
}

// dismiss ends the guard, which holds nothing any more.
func (g *guard) dismiss() error {
	_ = g.say(sayEnd) // a guard that is gone has ended as well
	g.in.Close()
	return g.cmd.Wait()
}
