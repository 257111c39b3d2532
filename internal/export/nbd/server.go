package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"cowl/internal/errs"
	"cowl/internal/export"
)

// maxConns bounds a server's connections; each may hold maxHeld bytes. qemu
// uses one for a disk, nbdcopy four, the kernel at most a few dozen.
const maxConns = 256

// Server gives exports to NBD clients.
type Server struct {
	exports export.Exports
	log     *slog.Logger

	mu        sync.Mutex
	listeners map[net.Listener]bool
	conns     map[*conn]bool
	closing   bool

	running sync.WaitGroup // one for each of conns
}

// NewServer returns a server of the exports. What goes wrong with a client
// is logged to log, or nowhere where it is nil.
func NewServer(exports export.Exports, log *slog.Logger) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		exports:   exports,
		log:       log,
		listeners: make(map[net.Listener]bool),
		conns:     make(map[*conn]bool),
	}
}

// Serve answers the listener's clients until Shutdown, and then returns nil.
// It closes the listener. Any error is the listener's.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	if !s.addListener(l) {
		return nil
	}
	for pause := time.Duration(0); ; {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			go s.serveLogged(nc)
		case s.isClosing():
			return nil
		case isTemporary(err):
			// Out of descriptors or memory: others will give some back.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.log.Warn("nbd: accept", "error", err, "retry", pause)
			time.Sleep(pause)
		default:
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		}
	}
}

// isTemporary tells whether an Accept may work if it is tried again.
func isTemporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}

func (s *Server) serveLogged(nc net.Conn) {
	if err := s.ServeConn(nc); err != nil && !errors.Is(err, errStopped) {
		s.log.Warn("nbd: connection dropped", "client", nc.RemoteAddr(), "error", err)
	}
}

// ServeConn answers one client until it leaves or Shutdown ends it, and closes
// the connection. The error says why the client was dropped: nil when it left
// by itself.
func (s *Server) ServeConn(nc net.Conn) error {
	defer nc.Close()
	c := newConn(s, nc)
	if err := s.addConn(c); err != nil {
		return err
	}
	defer s.removeConn(c)
	err := c.serve()
	if s.isClosing() && errors.Is(err, errStopped) {
		return nil
	}
	return err
}

// Shutdown stops accepting, lets the requests finish that have arrived, sees
// their replies out, and closes the connections. Clients that do not take
// their replies before the context ends are cut off, and so are those whose
// requests still run; the error says how many there were.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	for l := range s.listeners {
		l.Close()
	}
	for c := range s.conns {
		c.stop()
	}
	s.mu.Unlock()

	done := make(chan struct{})
	go func() {
		s.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	cut := len(s.conns)
	for c := range s.conns {
		c.nc.Close()
	}
	s.mu.Unlock()
	if cut == 0 {
		return nil
	}
	return fmt.Errorf("shut down NBD server: %d connections cut off: %w", cut, ctx.Err())
}

func (s *Server) addListener(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing {
		s.listeners[l] = true
	}
	return !s.closing
}

func (s *Server) addConn(c *conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing:
		return errStopped
	case len(s.conns) >= maxConns:
		return errs.E(errs.Busy, "more than %d connections", maxConns)
	}
	s.conns[c] = true
	s.running.Add(1)
	return nil
}

func (s *Server) removeConn(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.running.Done()
}

func (s *Server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// errStopped ends a connection that Shutdown stopped.
var errStopped = errs.E(errs.Busy, "server is shutting down")

// endOfStream turns the end of a connection's bytes into what it means: nothing
// where the client was free to leave.
func endOfStream(err error, partial bool) error {
	if errors.Is(err, io.EOF) && !partial {
		return nil
	}
	return err
}
