//go:build linux

package fuse

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/export"
	"cowl/internal/judge"
)

// patience is how long a test waits for anything. It only ends those that fail.
const patience = 20 * time.Second

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

// without removes an export.
func (s *shelf) without(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.devs, name)
	for i, n := range s.names {
		if n == name {
			s.names = append(s.names[:i:i], s.names[i+1:]...)
		}
	}
}

func (s *shelf) List() []export.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []export.Info
	for _, n := range s.names {
		list = append(list, export.Info{Name: n, Size: s.devs[n].Size(), ReadOnly: s.devs[n].Caps().ReadOnly})
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
	return &opened{Device: d, shelf: s, name: name}, nil
}

// open tells how many users an export has.
func (s *shelf) open(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opens[name]
}

// opened is one opening of an export.
type opened struct {
	block.Device
	shelf *shelf
	name  string
}

func (h *opened) Close() error {
	h.shelf.mu.Lock()
	defer h.shelf.mu.Unlock()
	h.shelf.opens[h.name]--
	return nil
}

// hooked is a device with other abilities than mem's, which counts flushes.
type hooked struct {
	*mem.Device
	mu      sync.Mutex
	caps    block.Caps
	size    int64
	flushes int
	fail    error
}

func newHooked(size int64) *hooked {
	d := mem.New(1 << 30)
	return &hooked{Device: d, caps: d.Caps(), size: size}
}

// failWith makes reads, writes and flushes fail, with nil no more.
func (h *hooked) failWith(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fail = err
}

func (h *hooked) failure() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fail
}

func (h *hooked) ReadAt(p []byte, off int64) (int, error) {
	if err := h.failure(); err != nil {
		return 0, err
	}
	return h.Device.ReadAt(p, off)
}

func (h *hooked) WriteAt(p []byte, off int64) (int, error) {
	if err := h.failure(); err != nil {
		return 0, err
	}
	return h.Device.WriteAt(p, off)
}

func (h *hooked) Flush() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.flushes++
	return h.fail
}

// flushed counts the flushes so far.
func (h *hooked) flushed() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.flushes
}

func (h *hooked) Size() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.size
}

func (h *hooked) grow(size int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.size = size
}

func (h *hooked) Caps() block.Caps { return h.caps }

// serve mounts exports until the test ends, and returns the directory.
func serve(t testing.TB, exports export.Exports) (*Mount, string) {
	t.Helper()
	judge.NeedFile(t, "/dev/fuse")
	dir := filepath.Join(t.TempDir(), "mnt")
	m, err := Serve(dir, exports)
	if errs.Is(err, errs.Unsupported) {
		judge.Absent(t, "%v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := m.Close(ctx); err != nil {
			t.Error(err)
		}
		if kind, err := mountedAt(dir); kind != "" || err != nil {
			t.Errorf("still mounted: %q, %v", kind, err)
		}
	})
	return m, dir
}

// open opens a file and closes it when the test ends.
func open(t testing.TB, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// check ends the test on an error.
func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a program and returns what it said.
func run(t testing.TB, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(judge.Find(program), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// eventually waits for something that another process does.
func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
	}
}

// helperVar makes the test's program a server of its own: it mounts an export
// "vol" of 1 MiB there, says so, and waits to be killed or for its input to end.
const helperVar = "COWL_FUSE_TEST_HELPER"

func TestMain(m *testing.M) {
	if path := os.Getenv(helperVar); path != "" {
		os.Exit(help(path))
	}
	os.Exit(m.Run())
}

func help(path string) int {
	mount, err := Serve(path, newShelf().with("vol", mem.New(1<<20)))
	if err != nil {
		os.Stdout.WriteString(err.Error() + "\n")
		return 1
	}
	os.Stdout.WriteString("mounted\n")
	os.Stdin.Read(make([]byte, 1))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := mount.Close(ctx); err != nil {
		os.Stdout.WriteString(err.Error() + "\n")
		return 1
	}
	os.Stdout.WriteString("unmounted\n")
	return 0
}
