//go:build linux

package kernel

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
	"syscall"
	"testing"
	"time"

	"cowl/internal/daemon"
	"cowl/internal/export/nbd"
	"cowl/test/asprogram"
)

// program is the cowl program with sockets and state of its own.
type program struct {
	t    *testing.T
	path string
	dir  string
	used []string
}

func (p *program) runDir() string { return filepath.Join(p.dir, "run") }

func TestMain(m *testing.M) { asprogram.Main(m) }

func newProgram(t *testing.T) *program {
	t.Helper()
	dir, err := os.MkdirTemp("", "cowl-run-") // short: sockets will be in it
	if err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, path: asprogram.Install(t), dir: dir}
	t.Cleanup(func() {
		p.die()
		// The mount of a killed daemon stays until the next one takes it over.
		_ = syscall.Unmount(filepath.Join(p.runDir(), vg), syscall.MNT_DETACH)
		os.RemoveAll(dir)
	})
	return p
}

func (p *program) name() string { return "cowl" }

func (p *program) start(images []string) { p.used = images }

// stop has nothing to do: without an active volume there is no daemon.
func (p *program) stop() {
	p.t.Helper()
	if pid := p.daemon(); pid != 0 {
		p.t.Errorf("cowl: daemon %d is still there when no volume is active", pid)
		p.die()
	}
}

// daemon returns the process that has the group active, or 0.
func (p *program) daemon() int {
	text, err := os.ReadFile(filepath.Join(p.runDir(), vg+".pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || syscall.Kill(pid, 0) != nil {
		return 0
	}
	return pid
}

// die kills the daemon, which cannot do anything about it, and waits.
func (p *program) die() {
	p.t.Helper()
	pid := p.daemon()
	if pid == 0 {
		return
	}
	syscall.Kill(pid, syscall.SIGKILL)
	for deadline := time.Now().Add(time.Minute); syscall.Kill(pid, 0) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("cowl: daemon %d does not die", pid)
		}
	}
}

func (p *program) run(command string) (string, int) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.path, strings.Fields(toPaths(command, p.used))...)
	cmd.Env = append(asprogram.Environ(p.dir), "COWL_DEVICES="+strings.Join(p.used, ","))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		p.t.Fatalf("cowl %s: %v", command, errors.Join(err, ctx.Err()))
	}
	if err != nil {
		p.t.Logf("cowl: %s: %s", command, &stderr)
	}
	return fromPaths(string(out), p.used), cmd.ProcessState.ExitCode()
}

// open connects to a volume's NBD export.
func (p *program) open(lv string) (*nbd.Device, error) {
	paths, err := daemon.PathsFor(p.runDir(), vg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return nbd.Dial(ctx, "unix", paths.NBD, lv)
}

func (p *program) whole(lv string) ([]byte, error) {
	d, err := p.open(lv)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	data := make([]byte, d.Size())
	_, err = d.ReadAt(data, 0)
	return data, err
}

func (p *program) write(ws []lvWrite) error {
	open := map[string]*nbd.Device{}
	var failed error
	for _, w := range ws {
		d := open[w.lv]
		if d == nil {
			var err error
			if d, err = p.open(w.lv); err != nil {
				return errors.Join(failed, err)
			}
			defer d.Close()
			open[w.lv] = d
		}
		_, err := d.WriteAt(w.data, w.off)
		failed = errors.Join(failed, err)
	}
	for _, d := range open {
		failed = errors.Join(failed, d.Flush())
	}
	return failed
}

// merging asks cowl for what is left, in percent as lvs prints it.
func (p *program) merging(origin string) (int, bool) {
	p.t.Helper()
	out, status := p.run(fmt.Sprintf("lvs --noheadings -o lv_attr,snap_percent %s/%s", vg, origin))
	f := strings.Fields(out)
	if status != 0 || len(f) != 2 || f[0][0] != 'O' {
		return 0, false
	}
	percent, err := strconv.ParseFloat(f[1], 64)
	if err != nil {
		p.t.Fatalf("cowl: lvs gives %q", out)
	}
	return int(percent * 100), true
}
