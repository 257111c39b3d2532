package nbd

import (
	"context"
	"iter"
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

	bitmaps []export.Bitmap // of all exports
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
		list = append(list, export.Info{Name: n, Description: "about " + n, Size: d.Size(), ReadOnly: d.Caps().ReadOnly, Bitmaps: s.bitmaps})
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

// hooked is a device whose methods a test replaces, those that it sets.
type hooked struct {
	block.Device
	caps    *block.Caps
	size    func() int64
	read    func(p []byte, off int64) (int, error)
	write   func(p []byte, off int64) (int, error)
	flush   func() error
	discard func(off, length int64) error
	zeroes  func(off, length int64) error
	extents func(off, length int64) iter.Seq2[block.Extent, error]
}

func (h *hooked) ReadAt(p []byte, off int64) (int, error) {
	if h.read != nil {
		return h.read(p, off)
	}
	return h.Device.ReadAt(p, off)
}

func (h *hooked) WriteAt(p []byte, off int64) (int, error) {
	if h.write != nil {
		return h.write(p, off)
	}
	return h.Device.WriteAt(p, off)
}

func (h *hooked) Flush() error {
	if h.flush != nil {
		return h.flush()
	}
	return h.Device.Flush()
}

func (h *hooked) Discard(off, length int64) error {
	if h.discard != nil {
		return h.discard(off, length)
	}
	return h.Device.Discard(off, length)
}

func (h *hooked) WriteZeroes(off, length int64) error {
	if h.zeroes != nil {
		return h.zeroes(off, length)
	}
	return h.Device.WriteZeroes(off, length)
}

func (h *hooked) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	if h.extents != nil {
		return h.extents(off, length)
	}
	return h.Device.Extents(off, length)
}

func (h *hooked) Size() int64 {
	if h.size != nil {
		return h.size()
	}
	return h.Device.Size()
}

func (h *hooked) Caps() block.Caps {
	if h.caps != nil {
		return *h.caps
	}
	return h.Device.Caps()
}

// eventually waits for something that another goroutine or process does.
func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
	}
}
