package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

var bg = context.Background()

// runDir returns a directory for sockets. The system's temporary directory
// may have a name that is too long for them.
func runDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cowl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// running is a daemon in this process.
type running struct {
	dir    string
	group  *fake
	client *Client
	cancel context.CancelFunc
	ended  chan error
}

// serve starts a daemon for the group and connects to it. It has ended when
// the test has.
func serve(t testing.TB, f *fake, dir string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(bg)
	r := &running{dir: dir, group: f, cancel: cancel, ended: make(chan error, 1)}
	go func() {
		r.ended <- Serve(ctx, f, Options{RunDir: dir, Group: "vg", Log: testLog(t)})
		close(r.ended)
	}()
	t.Cleanup(func() {
		cancel()
		for err := range r.ended {
			if err != nil {
				t.Errorf("daemon: %v", err)
			}
		}
	})
	until(t, "the daemon answers", func() bool {
		var err error
		r.client, err = Connect(bg, dir, "vg")
		return err == nil
	})
	t.Cleanup(func() { r.client.Close() })
	return r
}

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

func wantKind(t testing.TB, what string, err error, kind errs.Kind) {
	t.Helper()
	if !errs.Is(err, kind) {
		t.Errorf("%s: got %v (%v), want an error of kind %v", what, err, errs.KindOf(err), kind)
	}
}

func TestNoDaemon(t *testing.T) {
	dir := runDir(t)
	_, err := Connect(bg, dir, "vg")
	wantKind(t, "no socket", err, errs.NotFound)
	_, err = Connect(bg, filepath.Join(dir, "none"), "vg")
	wantKind(t, "no directory", err, errs.NotFound)
	leaveSocket(t, filepath.Join(dir, "vg.ctl"))
	_, err = Connect(bg, dir, "vg")
	wantKind(t, "a dead daemon's socket", err, errs.NotFound)
}

// leaveSocket makes what a daemon that was killed leaves behind.
func leaveSocket(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestWhatADeadDaemonLeftIsReplaced(t *testing.T) {
	dir := runDir(t)
	leaveSocket(t, filepath.Join(dir, "vg.ctl"))
	leaveSocket(t, filepath.Join(dir, "vg.nbd"))
	os.WriteFile(filepath.Join(dir, "vg.pid"), []byte("99999999\n"), 0o600)
	r := serve(t, newFake(t), dir)
	for _, name := range []string{"vg.ctl", "vg.nbd"} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, fi.Mode(), err)
		}
	}
	r.cancel()
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
	wantLeft(t, dir)
}

// wantLeft checks what is left in a run directory, logs aside.
func wantLeft(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".log") {
			got = append(got, e.Name())
		}
	}
	if !slices.Equal(got, names) {
		t.Errorf("left in the run directory: %q, want %q", got, names)
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	r := serve(t, newFake(t), runDir(t))
	second := newFake(t)
	err := Serve(bg, second, Options{RunDir: r.dir, Group: "vg"})
	wantKind(t, "second daemon", err, errs.Busy)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", os.Getpid())) {
		t.Errorf("%v", err)
	}
	if got := second.asked(); !slices.Equal(got, []string{"close"}) {
		t.Errorf("the second group was asked %q", got)
	}
	if _, err := r.client.Status(bg); err != nil {
		t.Errorf("the first: %v", err)
	}
	other := newFake(t)
	ctx, cancel := context.WithCancel(bg)
	cancel()
	if err := Serve(ctx, other, Options{RunDir: r.dir, Group: "vg2"}); err != nil {
		t.Errorf("a daemon of another group: %v", err)
	}
}

func TestRunDirectoryMustBePrivate(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("modes mean nothing here")
	}
	dir := runDir(t)
	os.Chmod(dir, 0o777)
	err := Serve(bg, newFake(t), Options{RunDir: dir, Group: "vg"})
	wantKind(t, "a directory that all can write", err, errs.Denied)
	made := filepath.Join(runDir(t), "a", "b")
	ctx, cancel := context.WithCancel(bg)
	cancel()
	if err := Serve(ctx, newFake(t), Options{RunDir: made, Group: "vg"}); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(made); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("made %v, %v", fi.Mode(), err)
	}
}

func TestFilesInTheWayOfSockets(t *testing.T) {
	dir := runDir(t)
	os.WriteFile(filepath.Join(dir, "vg.ctl"), []byte("precious"), 0o600)
	err := Serve(bg, newFake(t), Options{RunDir: dir, Group: "vg"})
	wantKind(t, "a file in the socket's place", err, errs.Exists)
	wantLeft(t, dir, "vg.ctl")
}

func TestLongSocketPaths(t *testing.T) {
	dir := runDir(t)
	long := filepath.Join(dir, strings.Repeat("x", socketPathMax()-len(dir)-len("/vg.ctl")))
	_, err := PathsFor(long, "vg")
	wantKind(t, "too long", err, errs.Usage)
	if err != nil && errs.HintOf(err) == "" {
		t.Errorf("%v has no hint", err)
	}
	serve(t, newFake(t), long[:len(long)-1]) // the longest that there can be
}

func TestNamesThatAreNoGroups(t *testing.T) {
	for _, name := range []string{"", ".", "..", ".x", "a/b", "../x"} {
		if _, err := PathsFor("/run", name); !errs.Is(err, errs.Usage) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestVolumesAreServed(t *testing.T) {
	f := newFake(t)
	r := serve(t, f, runDir(t))
	d, err := r.client.Open(bg, "a", false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt([]byte("hello"), 100); err != nil {
		t.Fatal(err)
	}
	ro, err := r.client.Open(bg, "a", true)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := ro.ReadAt(got, 100); err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := ro.WriteAt(got, 0); !errs.Is(err, errs.Conflict) || !ro.Caps().ReadOnly {
		t.Errorf("write through a device opened for reading: %v", err)
	}
	st, err := r.client.Status(bg)
	if err != nil || st.LVs["a"].Opens != 2 {
		t.Errorf("%d openers, %v", st.LVs["a"].Opens, err)
	}
	_, err = r.client.Deactivate(bg)
	wantKind(t, "deactivate", err, errs.Busy)
	_, err = r.client.Open(bg, "nothing", false)
	wantKind(t, "open what is not there", err, errs.NotFound)
	ro.Close()
	d.Close()
	if st, err := r.client.Status(bg); err != nil || st.LVs["a"].Opens != 0 {
		t.Errorf("%d openers behind the close, %v", st.LVs["a"].Opens, err)
	}
}

// vgchange -an, then rm disk.img: when the command has returned, nobody uses
// the PVs any more.
func TestLastDeactivationEndsTheDaemon(t *testing.T) {
	for name, end := range map[string]func(c *Client) (*manager.Result, error){
		"vgchange -an": func(c *Client) (*manager.Result, error) { return c.Deactivate(bg) },
		"lvremove":     func(c *Client) (*manager.Result, error) { return c.RemoveLVs(bg, []string{"a", "b"}) },
		"vgremove":     func(c *Client) (*manager.Result, error) { return c.RemoveGroup(bg) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			r := serve(t, f, runDir(t))
			if _, err := r.client.Deactivate(bg, "a"); err != nil {
				t.Fatal(err)
			}
			if _, err := r.client.Status(bg); err != nil {
				t.Fatalf("with a volume left: %v", err)
			}
			if _, err := end(r.client); err != nil {
				t.Error(err)
			}
			f.mu.Lock()
			if !f.closed {
				t.Error("answered before the group was closed")
			}
			f.mu.Unlock()
			wantLeft(t, r.dir)
			_, err := Connect(bg, r.dir, "vg")
			wantKind(t, "connect afterwards", err, errs.NotFound)
			if err := <-r.ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// What cannot be flushed at the end must not look as if it had been.
func TestFailedFlushAtTheEndIsReported(t *testing.T) {
	f := newFake(t)
	f.onClose = func() error { return errs.E(errs.NoSpace, "disk is full") }
	dir := runDir(t)
	ended := make(chan error, 1)
	go func() { ended <- Serve(bg, f, Options{RunDir: dir, Group: "vg"}) }()
	var c *Client
	until(t, "the daemon answers", func() bool {
		var err error
		c, err = Connect(bg, dir, "vg")
		return err == nil
	})
	_, err := c.Deactivate(bg)
	wantKind(t, "deactivate", err, errs.NoSpace)
	wantKind(t, "serve", <-ended, errs.NoSpace)
	wantLeft(t, dir)
}

// SIGTERM under load: what was accepted is done and answered, what comes later
// is told why not, and the group is closed behind all of it.
func TestEndDrains(t *testing.T) {
	f := newFake(t)
	inRequest, inWrite := make(chan struct{}), make(chan struct{})
	finishRequest, finishWrite := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.onWrite = func() {
		once.Do(func() { close(inWrite) })
		<-finishWrite
	}
	f.onCreateLV = func(context.Context) (*manager.Result, error) {
		close(inRequest)
		<-finishRequest
		return &manager.Result{Names: []string{"late"}}, nil
	}
	r := serve(t, f, runDir(t))
	d, err := r.client.Open(bg, "a", false)
	if err != nil {
		t.Fatal(err)
	}
	written, created := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := d.WriteAt([]byte("hello"), 0)
		written <- err
	}()
	go func() {
		_, err := r.client.CreateLV(bg, volume.LVSpec{})
		created <- err
	}()
	<-inWrite
	<-inRequest
	r.cancel()
	close(finishRequest)
	if err := <-created; err != nil {
		t.Errorf("a request that was accepted: %v", err)
	}
	until(t, "further requests are refused", func() bool {
		_, err := r.client.Status(bg)
		return errs.Is(err, errs.Busy)
	})
	f.mu.Lock()
	if f.closed {
		t.Error("the group was closed under a write")
	}
	f.mu.Unlock()
	close(finishWrite)
	if err := <-written; err != nil {
		t.Errorf("a write that was accepted: %v", err)
	}
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
	if calls := f.asked(); calls[len(calls)-1] != "close" {
		t.Errorf("the group was asked %q", calls)
	}
	got := make([]byte, 5)
	f.data["a"].ReadAt(got, 0)
	if string(got) != "hello" {
		t.Errorf("the volume holds %q", got)
	}
	wantLeft(t, r.dir)
}

func TestActivationThatFails(t *testing.T) {
	f := newFake(t)
	dir := runDir(t)
	f.onActivate = func() (*manager.Result, error) {
		return &manager.Result{}, errs.E(errs.Unsupported, "all of it is thin")
	}
	err := Serve(bg, f, Options{RunDir: dir, Group: "vg"})
	wantKind(t, "nothing could be activated", err, errs.Unsupported)
	wantLeft(t, dir)

	f = newFake(t)
	f.onActivate = func() (*manager.Result, error) {
		f.active["a"] = true
		return &manager.Result{Names: []string{"a"}}, errs.E(errs.Unsupported, "b is thin")
	}
	r := serve(t, f, runDir(t)) // the rest is served
	if st, err := r.client.Status(bg); err != nil || len(st.LVs) != 1 {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestDefaultRunDir(t *testing.T) {
	none := func(string) string { return "" }
	xdg := func(name string) string { return map[string]string{"XDG_RUNTIME_DIR": "/run/user/7"}[name] }
	if got := DefaultRunDir(xdg, 7); got != filepath.FromSlash("/run/user/7/cowl") {
		t.Errorf("with XDG_RUNTIME_DIR: %s", got)
	}
	if a, b := DefaultRunDir(none, 7), DefaultRunDir(none, 8); a == b || !strings.HasPrefix(a, os.TempDir()) {
		t.Errorf("without: %s and %s", a, b)
	}
	if got := DefaultRunDir(xdg, 0); runtime.GOOS == "linux" && got != "/run/cowl" {
		t.Errorf("root: %s", got)
	}
}
