package nbd

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/export"
)

// shelf is a set of exports for tests, which counts how many are open.
type shelf struct {
	mu    sync.Mutex
	names []string
	devs  map[string]block.Device
	opens map[string]int
}

func newShelf() *shelf {
	return &shelf{devs: map[string]block.Device{}, opens: map[string]int{}}
}

// with adds or replaces an export.
func (s *shelf) with(name string, dev block.Device) *shelf {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.devs[name] == nil {
		s.names = append(s.names, name)
	}
	s.devs[name] = dev
	return s
}

func (s *shelf) List() []export.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []export.Info
	for _, n := range s.names {
		d := s.devs[n]
		list = append(list, export.Info{Name: n, Description: "about " + n, Size: d.Size(), ReadOnly: d.Caps().ReadOnly})
	}
	return list
}

func (s *shelf) Open(name string) (block.Device, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.devs[name]
	if d == nil {
		return nil, errs.E(errs.NotFound, "no volume %q", name)
	}
	s.opens[name]++
	return &handle{Device: d, shelf: s, name: name}, nil
}

// open tells how many users an export has.
func (s *shelf) open(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opens[name]
}

// handle is one opening of an export. It embeds the device, which a filter of
// the program must not, because a test's devices have no other methods.
type handle struct {
	block.Device
	shelf *shelf
	name  string
}

func (h *handle) Close() error {
	h.shelf.mu.Lock()
	defer h.shelf.mu.Unlock()
	h.shelf.opens[h.name]--
	return nil
}

// startServer serves exports on a unix socket until the test ends, and returns
// its path.
func startServer(t testing.TB, exports export.Exports) (*Server, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nbd")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(exports, nil)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, path
}

// dial opens an export and closes it when the test ends.
func dial(t testing.TB, path, export string) *Device {
	t.Helper()
	d, err := Dial(t.Context(), "unix", path, export)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// pipe connects a server to what is returned, without a socket.
func pipe(t testing.TB, s *Server) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ServeConn(theirs)
	}()
	t.Cleanup(func() {
		ours.Close()
		<-done
	})
	return ours
}
