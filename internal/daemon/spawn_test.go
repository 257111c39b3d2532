//go:build unix

package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// helperVariable makes the test binary be a daemon.
const helperVariable = "COWL_TEST_DAEMON"

// helper is what the daemon that the test binary becomes is to do, its only
// argument.
type helper struct {
	Mode   string // "serve", or a way to fail
	RunDir string
	Images []string
	Gate   string // a file without which the group does not close
}

func (h helper) argv(t testing.TB) []string {
	t.Helper()
	t.Setenv(helperVariable, "1")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	return []string{self, string(b)}
}

func TestMain(m *testing.M) {
	if os.Getenv(helperVariable) == "" {
		os.Exit(m.Run())
	}
	if err := runHelper(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(5)
	}
}

func runHelper(args string) error {
	var h helper
	if err := json.Unmarshal([]byte(args), &h); err != nil {
		return err
	}
	ctx, stop := Signals(bg)
	defer stop()
	ready, err := InheritReadiness()
	if err != nil {
		return err
	}
	switch h.Mode {
	case "die":
		return errors.New("first line\nno such luck")
	case "hang":
		<-ctx.Done()
		return ctx.Err()
	case "refuse":
		err := errs.WithHint(errs.E(errs.Conflict, "the group is exported"), "vgimport it")
		ready.Report(nil, err)
		return err
	}
	if wd, err := os.Getwd(); err != nil || wd != "/" {
		return fmt.Errorf("working directory %s, %v", wd, err)
	}
	if _, left := os.LookupEnv(readyVariable); left {
		return errors.New("the readiness pipe is still in the environment")
	}
	local, err := newHost(h.Images).OpenLocal(ctx, "vg")
	if err != nil {
		ready.Report(nil, err)
		return err
	}
	var group manager.Group = local
	if h.Gate != "" {
		group = gated{local, h.Gate}
	}
	return Serve(ctx, group, Options{RunDir: h.RunDir, Group: "vg", Ready: ready})
}

// gated is a group that takes its time to flush.
type gated struct {
	manager.Group
	gate string
}

func (g gated) Close() error {
	for {
		if _, err := os.Stat(g.gate); err == nil {
			return g.Group.Close()
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// end kills a daemon that a test spawned and waits until it is no more.
func end(t testing.TB, pid int, sig syscall.Signal) {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(sig); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(); err != nil { // it is this process's child
		t.Fatal(err)
	}
}

// kill -9, the power cut of a process: what was flushed is there, a snapshot
// shows its instant, and the next daemon finds its way past what is left.
func TestKilledDaemon(t *testing.T) {
	m := newMachine(t)
	m.volumes(t, "a", "b")
	argv := helper{Mode: "serve", RunDir: m.run, Images: m.images}.argv(t)
	c, res, err := Spawn(bg, m.run, "vg", argv)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(res.Names, " ") != "a b" {
		t.Errorf("activated %q", res.Names)
	}
	if st, err := c.Status(bg); err != nil || st.Owner != c.PID() || st.Owner == os.Getpid() {
		t.Errorf("owner %d, client says %d, %v", st.Owner, c.PID(), err)
	}
	if sid, err := unix.Getsid(c.PID()); err != nil || sid != c.PID() {
		t.Errorf("session %d of process %d, %v", sid, c.PID(), err)
	}
	a := openVolume(t, c, "a")
	fill := func(b byte) {
		if _, err := a.WriteAt(bytes.Repeat([]byte{b}, int(a.Size())), 0); err != nil {
			t.Fatal(err)
		}
		if err := a.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	fill(1)
	if _, err := c.CreateSnapshots(bg, []volume.SnapshotSpec{{Origin: "a", Name: "s"}}); err != nil {
		t.Fatal(err)
	}
	fill(2)
	end(t, c.PID(), syscall.SIGKILL)
	if _, err := a.WriteAt([]byte{3}, 0); err == nil {
		t.Error("wrote to a daemon that is dead")
	}
	a.Close()
	_, err = c.Status(bg)
	wantKind(t, "status of a dead daemon", err, errs.Other)
	if err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("status of a dead daemon: %v", err)
	}
	_, err = c.Open(bg, "a", true)
	wantKind(t, "open with a dead daemon", err, errs.Other)
	_, err = Connect(bg, m.run, "vg")
	wantKind(t, "connect to a dead daemon", err, errs.NotFound)

	c, _, err = Spawn(bg, m.run, "vg", argv)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]byte{"a": 2, "s": 1} {
		if got := readAll(t, c, name); !bytes.Equal(got, bytes.Repeat([]byte{want}, len(got))) {
			t.Errorf("%s does not hold %d throughout", name, want)
		}
	}
	pid := c.PID()
	if _, err := c.Deactivate(bg); err != nil {
		t.Fatal(err)
	}
	p, _ := os.FindProcess(pid)
	if state, err := p.Wait(); err != nil || !state.Success() {
		t.Errorf("the daemon ended with %v, %v", state, err)
	}
	wantLeft(t, m.run)
	if fi, err := os.Stat(filepath.Join(m.run, "vg.log")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("log: %v, %v", fi, err)
	}
	if err := m.local(t).Close(); err != nil {
		t.Error(err)
	}
}

func TestTerminationIsCleanAndASecondSignalDoesNotHurry(t *testing.T) {
	m := newMachine(t)
	m.volumes(t, "a")
	gate := filepath.Join(t.TempDir(), "gate")
	c, _, err := Spawn(bg, m.run, "vg", helper{Mode: "serve", RunDir: m.run, Images: m.images, Gate: gate}.argv(t))
	if err != nil {
		t.Fatal(err)
	}
	a := openVolume(t, c, "a")
	if _, err := a.WriteAt([]byte("not flushed by anyone"), 0); err != nil {
		t.Fatal(err)
	}
	p, err := os.FindProcess(c.PID())
	if err != nil {
		t.Fatal(err)
	}
	p.Signal(syscall.SIGTERM)
	until(t, "the daemon says that it is ending", func() bool {
		_, err := c.Status(bg)
		return errs.Is(err, errs.Busy)
	})
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		p.Signal(sig)
	}
	_, _, err = Spawn(bg, m.run, "vg", helper{Mode: "serve", RunDir: m.run, Images: m.images}.argv(t))
	wantKind(t, "another daemon meanwhile", err, errs.Busy)
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if state, err := p.Wait(); err != nil || !state.Success() {
		t.Errorf("ended with %v, %v", state, err)
	}
	a.Close()
	wantLeft(t, m.run)
	g := m.local(t)
	defer g.Close()
	if got := readAll(t, g, "a"); !bytes.HasPrefix(got, []byte("not flushed by anyone")) {
		t.Errorf("the volume begins with %q", got[:32])
	}
}

func TestSpawnReportsWhyADaemonDidNotStart(t *testing.T) {
	m := newMachine(t)
	_, _, err := Spawn(bg, m.run, "vg", helper{Mode: "refuse"}.argv(t))
	wantKind(t, "a daemon that says why", err, errs.Conflict)
	if err == nil || err.Error() != "the group is exported" || errs.HintOf(err) != "vgimport it" {
		t.Errorf("%v, hint %q", err, errs.HintOf(err))
	}
	_, _, err = Spawn(bg, m.run, "vg", helper{Mode: "die"}.argv(t))
	if err == nil || !strings.Contains(err.Error(), "exit status 5: no such luck") || !strings.Contains(errs.HintOf(err), "vg.log") {
		t.Errorf("a daemon that dies: %v, hint %q", err, errs.HintOf(err))
	}
	_, _, err = Spawn(bg, m.run, "vg", []string{filepath.Join(m.run, "missing")})
	wantKind(t, "no such program", err, errs.NotFound)

	m.volumes(t, "a")
	holder := m.local(t)
	_, _, err = Spawn(bg, m.run, "vg", helper{Mode: "serve", RunDir: m.run, Images: m.images}.argv(t))
	wantKind(t, "PVs that somebody holds", err, errs.Busy)
	holder.Close()
	wantLeft(t, m.run)
}

// Ctrl-C while the daemon starts leaves none behind.
func TestSpawnCanBeCancelled(t *testing.T) {
	dir := runDir(t)
	argv := helper{Mode: "hang"}.argv(t)
	ctx, cancel := context.WithTimeout(bg, 300*time.Millisecond)
	defer cancel()
	_, _, err := Spawn(ctx, dir, "vg", argv)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	// Spawn has waited for its child: there is none left to wait for.
	if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); !errors.Is(err, syscall.ECHILD) {
		t.Errorf("a child is left: %d, %v", pid, err)
	}
}

// A readiness variable that is not ours must not make a daemon write into
// whatever has that number.
func TestForeignReadiness(t *testing.T) {
	for _, v := range []string{"", "1", "-1", "x", "999"} {
		t.Setenv(readyVariable, v)
		if r, err := InheritReadiness(); !errs.Is(err, errs.Usage) || r != nil {
			t.Errorf("%q: %v, %v", v, r, err)
		}
	}
	os.Unsetenv(readyVariable)
	if r, err := InheritReadiness(); r != nil || err != nil {
		t.Errorf("without: %v, %v", r, err)
	}
	var none *Readiness
	none.Report(nil, nil)
}
