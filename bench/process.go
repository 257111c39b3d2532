package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// running is a server that has been started.
type running struct {
	target  target
	depth1  bool // cannot have more than one request under way
	process *process
	cleanup func() error // after the server's end; may be nil
}

// stop ends the server and removes what belonged to this run.
func (r *running) stop() error {
	err := r.process.end()
	if r.cleanup != nil {
		if e := r.cleanup(); err == nil {
			err = e
		}
	}
	return err
}

// process is a server in the foreground. A nil process is none.
type process struct {
	cmd  *exec.Cmd
	pid  int // of the server, which may be a child of cmd
	log  bytes.Buffer
	done chan struct{}
}

// launch starts a server and returns when its socket answers.
func (b *bench) launch(socket string, env []string, name string, args ...string) (*process, error) {
	os.Remove(socket)
	p := &process{cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.pid = p.cmd.Process.Pid
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	for deadline := time.Now().Add(30 * time.Second); ; {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return p, nil
		}
		select {
		case <-p.done:
			return nil, fmt.Errorf("%s ended before it served:\n%s", name, p.log.Bytes())
		case <-b.ctx.Done():
			p.end()
			return nil, b.ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.end()
			return nil, fmt.Errorf("%s does not serve on %s:\n%s", name, socket, p.log.Bytes())
		}
	}
}

// end asks the server to end, and returns when it has.
func (p *process) end() error {
	if p == nil {
		return nil
	}
	if server, err := os.FindProcess(p.pid); err == nil {
		server.Signal(syscall.SIGTERM)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(time.Minute):
		p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not end:\n%s", p.cmd.Path, p.log.Bytes())
	}
}

// cpu returns the time that the server has spent, user and system, in steps of
// 10 ms; 0 where there is no /proc.
func (p *process) cpu() time.Duration {
	if p == nil {
		return 0
	}
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	_, after, _ := strings.Cut(string(text), ") ") // the name may hold spaces
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * (time.Second / 100)
}

// peakKiB returns the most memory that the server has had resident.
func (p *process) peakKiB() int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return n
		}
	}
	return 0
}

// path names a file in the directory of this run.
func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// do runs a command to its end.
func (b *bench) do(env []string, name string, args ...string) error {
	cmd := exec.CommandContext(b.ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return nil
}

// sparse makes a file of zeroes, without blocks, whatever was there.
func sparse(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Truncate(size)
}
