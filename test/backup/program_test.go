package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cowl/internal/block"
	_ "cowl/internal/cli" // the program that is built: a change there runs these tests again
	"cowl/internal/daemon"
)

// build makes the program once for all tests of this package.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "cowl-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "cowl")
	cmd := exec.Command("go", "build", "-o", path, "cowl/cmd/cowl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := build(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// site is a directory with a volume group "vg" on one sparse file, where
// commands are run.
type site struct {
	t   *testing.T
	dir string
}

// newSite makes the group, with disk bytes of room.
func newSite(t *testing.T, disk int64) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "cowl-site-") // short: sockets will be in it
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t, dir}
	t.Cleanup(func() {
		s.end()
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("something is still in use: %v", err)
		}
	})
	if err := os.WriteFile(s.path("disk"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.path("disk"), disk); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.path("backups"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.must("vgcreate vg disk")
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) command(args string) *exec.Cmd {
	s.t.Helper()
	program, err := build()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(program, strings.Fields(args)...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "COWL_DEVICES="+s.path("disk"), "COWL_RUN_DIR="+s.path("run"), "COWL_STATE_DIR="+s.path("state"))
	return cmd
}

// run returns what a command says, and how it ends.
func (s *site) run(args string) (stdout, stderr string, code int) {
	s.t.Helper()
	cmd := s.command(args)
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return out.String(), talk.String(), cmd.ProcessState.ExitCode()
}

// must runs a command that has to succeed.
func (s *site) must(args string) string {
	s.t.Helper()
	out, talk, code := s.run(args)
	if code != 0 {
		s.t.Fatalf("cowl %s: exit code %d\n%s%s", args, code, out, talk)
	}
	return out
}

// fails runs a command that has to fail and say why.
func (s *site) fails(args, why string) {
	s.t.Helper()
	out, talk, code := s.run(args)
	if code == 0 || !strings.Contains(talk, why) {
		s.t.Errorf("cowl %s: exit code %d, and it does not say %q\n%s%s", args, code, why, out, talk)
	}
}

// group connects to the daemon.
func (s *site) group() *daemon.Client {
	s.t.Helper()
	g, err := daemon.Connect(context.Background(), s.path("run"), "vg")
	if err != nil {
		s.t.Fatal(err)
	}
	return g
}

// open opens a volume of the group that is served.
func (s *site) open(lv string) block.Device {
	s.t.Helper()
	d, err := s.group().Open(context.Background(), lv, false)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

// volumes names what volumes there are.
func (s *site) volumes() []string {
	s.t.Helper()
	return strings.Fields(s.must("lvs --noheadings -o lv_name vg"))
}

// backups lists the target directory, hidden files as well.
func (s *site) backups() []string {
	s.t.Helper()
	entries, err := os.ReadDir(s.path("backups"))
	if err != nil {
		s.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// image is the only image in the target directory.
func (s *site) image(format string) string {
	s.t.Helper()
	found, err := filepath.Glob(s.path("backups/*." + format))
	if err != nil || len(found) != 1 {
		s.t.Fatalf("images %q (%v), expected one", found, err)
	}
	return found[0]
}

// nothingLeft is what must hold after a backup that failed.
func (s *site) nothingLeft(volumes ...string) {
	s.t.Helper()
	if got := s.backups(); len(got) > 0 {
		s.t.Errorf("files in the target directory: %q", got)
	}
	if got := s.volumes(); strings.Join(got, " ") != strings.Join(volumes, " ") {
		s.t.Errorf("volumes are %q, expected %q", got, volumes)
	}
}

// partial waits until a backup has begun to write, and returns its file.
func (s *site) partial() string {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		found, _ := filepath.Glob(s.path("backups/.*.partial"))
		if len(found) == 1 {
			if st, err := os.Stat(found[0]); err == nil && st.Size() > 0 {
				return found[0]
			}
		}
	}
	s.t.Fatal("no backup has begun within a minute")
	return ""
}

// end ends the daemon, if a test has left it.
func (s *site) end() {
	text, err := os.ReadFile(s.path("run/vg.pid"))
	if err != nil {
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 || syscall.Kill(pid, syscall.SIGTERM) != nil {
		return
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(s.path("run/vg.ctl")); os.IsNotExist(err) {
			return
		}
	}
	s.t.Error("the daemon does not end")
}
