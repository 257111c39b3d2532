//go:build unix

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"cowl/internal/errs"
	"cowl/internal/manager"
)

// Spawn starts a daemon for the group and returns when its sockets answer: a
// client of it, and what the activation had to say. The daemon is detached:
// a session of its own, / as working directory, its output in <run>/<vg>.log.
// The child is argv[0] with these arguments, all paths in them absolute; it
// has to call InheritReadiness and Serve. The caller must not hold the PVs.
//
// A daemon that cannot start gives its own error, kind and hint included. If
// ctx ends first, the daemon is ended too.
func Spawn(ctx context.Context, runDir, group string, argv []string) (*Client, *manager.Result, error) {
	paths, err := PathsFor(runDir, group)
	if err != nil {
		return nil, nil, err
	}
	if err := makeRunDir(paths.Dir); err != nil {
		return nil, nil, err
	}
	child, err := startChild(paths, argv)
	if err != nil {
		return nil, nil, err
	}
	rep, err := child.await(ctx)
	if err != nil {
		return nil, nil, err
	}
	// The daemon outlives this process, and then init waits for it.
	child.cmd.Process.Release()
	c, err := Connect(ctx, runDir, group)
	if err != nil {
		return nil, nil, err
	}
	return c, rep.Result, rep.Error.decode()
}

// child is a daemon that has not yet said how its start went.
type child struct {
	cmd     *exec.Cmd
	ready   *os.File
	log     *os.File
	logFrom int64 // where this daemon's part of the log begins
}

func startChild(paths Paths, argv []string) (*child, error) {
	log, err := os.OpenFile(paths.Log, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		log.Close()
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		log.Close()
		return nil, err
	}
	defer w.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), readyVariable+"=3")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		r.Close()
		log.Close()
		return nil, fmt.Errorf("start daemon: %w", err)
	}
	return &child{cmd: cmd, ready: r, log: log, logFrom: from}, nil
}

// await returns the child's report, or how it ended without one. After an
// error there is no child any more. A report of a failure that left the
// daemon running has both parts and is no error here.
func (c *child) await(ctx context.Context) (reply, error) {
	defer c.ready.Close()
	defer c.log.Close()
	stop := context.AfterFunc(ctx, func() { c.cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	var rep reply
	if err := decodeStrict(c.ready, maxReply, &rep); err != nil {
		state := c.cmd.Wait()
		if ctx.Err() != nil {
			return reply{}, ctx.Err()
		}
		return reply{}, c.died(state)
	}
	if rep.Error != nil && rep.Result == nil {
		c.cmd.Wait() // it has ended, or is about to
		return reply{}, rep.Error.decode()
	}
	return rep, nil
}

// died describes a child that ended without a report, with the last line that
// it wrote, since nobody saw it.
func (c *child) died(state error) error {
	how := "exit status 0"
	if state != nil {
		how = state.Error()
	}
	var exit *exec.ExitError
	if state != nil && !errors.As(state, &exit) {
		return fmt.Errorf("wait for daemon: %w", state)
	}
	b, _ := io.ReadAll(io.NewSectionReader(c.log, c.logFrom, 1<<20))
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if last := lines[len(lines)-1]; last != "" {
		how += ": " + last
	}
	return errs.WithHint(errs.E(errs.Other, "the daemon ended before it was ready: %s", how), "see %s", c.log.Name())
}
