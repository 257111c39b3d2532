// Package daemon is the process that owns a volume group while it is active,
// and the client by which every other cowl command reaches it.
//
// Serve gives one manager.Group to others in three ways: its methods over a
// control socket <run>/<vg>.ctl (HTTP with JSON), its active volumes as NBD
// exports on <run>/<vg>.nbd, and, where FUSE works, as files <run>/<vg>/<lv>.
// Client is a manager.Group on the other side of those sockets, and Spawn
// starts a daemon in the background.
//
// Only the user who runs the daemon can reach it: the run directory is 0700,
// the sockets 0600, and on Linux the kernel is asked who connected.
//
// It is not what activates volumes or keeps other owners from the PVs; that is
// the group that it is given.
//
// # The end
//
// A daemon ends when its context does (SIGTERM, SIGINT), or when a request has
// left the group without an active volume. Requests that run are answered,
// further ones are told that the daemon is ending; requests for blocks that
// have arrived are finished; files are unmounted; the group is closed, which
// flushes it and lets go of its PVs; only then the control socket disappears
// and the request that ended the daemon is answered.
//
// # Locks
//
// control.gate is held over whole requests, and taken before any lock of the
// group.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"cowl/internal/export/fuse"
	"cowl/internal/export/nbd"
	"cowl/internal/manager"
)

// drainTime bounds how long the end waits for clients to take their replies
// and to close their files. It does not bound the flush.
const drainTime = 10 * time.Second

// Options is how a group is served.
type Options struct {
	RunDir string // made where it is missing
	Group  string // the group's name
	// Activate names what is activated at the start; nil means all.
	Activate []string
	// NoFiles leaves FUSE alone.
	NoFiles bool
	Log     *slog.Logger // nil: nowhere
	Ready   *Readiness   // told once the sockets answer, or why they never will
}

// Serve activates volumes of the group and serves them until ctx ends, or
// until no volume is active any more. The group is Serve's from the call on:
// it is closed when Serve returns, whatever the reason.
//
// A daemon that serves the group already is errs.Busy. Volumes that cannot be
// activated are reported through Ready and do not keep the others from being
// served, unless there are no others.
func Serve(ctx context.Context, group manager.Group, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &server{options: o, log: o.Log, group: group}
	res, err := s.start(ctx)
	if err != nil && res == nil {
		err = errors.Join(err, s.end())
		o.Ready.Report(nil, err)
		return err
	}
	o.Ready.Report(res, err)
	s.log.Info("serving", "group", o.Group, "control", s.paths.Control, "nbd", s.paths.NBD)
	return errors.Join(s.wait(ctx), s.end())
}

// server is a daemon at work. Fields are nil until start got so far.
type server struct {
	options Options
	log     *slog.Logger
	group   manager.Group

	paths    Paths
	claim    *claim
	nbd      *nbd.Server
	files    *fuse.Mount
	requests net.Listener // of the control socket
	control  *control
	http     *http.Server

	// failed receives what ends an accept loop before its time.
	failed chan error
	loops  int // accept loops that will send to failed
}

// start returns the result of the activation. Without a result nothing is
// served; what was begun is still to be ended.
func (s *server) start(ctx context.Context) (*manager.Result, error) {
	var err error
	if s.paths, err = PathsFor(s.options.RunDir, s.options.Group); err != nil {
		return nil, err
	}
	if s.claim, err = takeClaim(s.paths, s.options.Group); err != nil {
		return nil, err
	}
	res, activation := s.group.Activate(ctx, s.options.Activate...)
	if activation != nil {
		if err := s.checkActive(ctx, activation); err != nil {
			return nil, err
		}
	}
	if res == nil {
		res = &manager.Result{}
	}
	if err := s.listen(); err != nil {
		return nil, err
	}
	return res, activation
}

// checkActive returns the error of an activation that activated nothing.
func (s *server) checkActive(ctx context.Context, activation error) error {
	st, err := s.group.Status(ctx)
	if err != nil {
		return errors.Join(activation, err)
	}
	if len(st.LVs) == 0 {
		return activation
	}
	return nil
}

// listen opens the doors, the control socket last: who can connect to it
// finds the others open.
func (s *server) listen() error {
	s.failed = make(chan error, 2)
	exports := exports{s.group, s.log}
	blocks, err := listen(s.paths.NBD)
	if err != nil {
		return err
	}
	s.nbd = nbd.NewServer(exports, s.log)
	s.loop("NBD", func() error { return s.nbd.Serve(blocks) })
	if !s.options.NoFiles {
		if s.files, err = fuse.Serve(s.paths.Mount, exports); err != nil {
			s.log.Warn("volumes are not shown as files", "err", err)
		}
	}
	if s.requests, err = listen(s.paths.Control); err != nil {
		return err
	}
	s.control = newControl(s.group, s.options.Group, s.log)
	s.control.locate = s.locate
	if s.files != nil {
		s.control.changed = s.files.Refresh
	}
	s.http = s.control.server()
	s.loop("control", func() error { return s.http.Serve(s.requests) })
	return nil
}

// loop runs an accept loop whose end is a failure, until it is told to end.
func (s *server) loop(name string, serve func() error) {
	s.loops++
	go func() {
		if err := serve(); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			s.failed <- fmt.Errorf("%s socket: %w", name, err)
			return
		}
		s.failed <- nil
	}()
}

// locate says where clients find an active volume.
func (s *server) locate(name string, st *manager.LVStatus) {
	st.NBD = nbd.URI{Network: "unix", Addr: s.paths.NBD, Export: name}.String()
	if s.files != nil {
		st.File = filepath.Join(s.paths.Mount, name)
	}
}

// wait returns when it is time to end: nil, or why the daemon cannot go on.
func (s *server) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		s.log.Info("ending", "cause", context.Cause(ctx))
		return nil
	case <-s.control.stop:
		s.log.Info("ending", "cause", "nothing is left to serve")
		return nil
	case err := <-s.failed:
		s.loops--
		return err
	}
}

// end is the package comment's. It does all of it, whatever fails on the way.
// Clients that had to be cut off are no failure of the daemon: what they were
// told is done.
func (s *server) end() error {
	if s.control != nil {
		s.control.end()
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if s.nbd != nil {
		s.warn("NBD clients", s.nbd.Shutdown(ctx))
	}
	if s.files != nil {
		s.warn("files", s.files.Close(ctx))
		os.Remove(s.paths.Mount) // one that a killed daemon made, if it is empty
	}
	problems := []error{s.group.Close()}
	if s.requests != nil {
		s.warn("control socket", s.requests.Close())
	}
	if s.claim != nil {
		problems = append(problems, s.claim.release())
	}
	if s.control != nil {
		s.control.groupClosed(errors.Join(problems...))
		if err := s.http.Shutdown(ctx); err != nil {
			s.warn("control clients", err)
			s.http.Close()
		}
	}
	for ; s.loops > 0; s.loops-- {
		problems = append(problems, <-s.failed)
	}
	return errors.Join(problems...)
}

func (s *server) warn(what string, err error) {
	if err != nil {
		s.log.Warn("end of "+what, "err", err)
	}
}
