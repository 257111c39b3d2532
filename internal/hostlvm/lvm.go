package hostlvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cowl/internal/errs"
)

// lvm is the program.
type lvm struct{ path string }

// commands are those that are ever run.
var commands = []string{
	"vgs", "lvcreate", "lvremove", "lvextend", "lvchange", "lvconvert", "vgchange", "vgextend", "vgreduce", "vgremove", "pvresize",
}

const (
	// commandTime is how long a command may take before it is asked to end. It
	// waits for lvm2's locks in that time.
	commandTime = 2 * time.Minute
	// endingTime is how long it may take to end. One that is in the middle of
	// changing tables goes on: killed there, it would leave devices suspended.
	endingTime = 10 * time.Second

	maxOutput = 16 << 20 // bytes of an answer
)

// places are where the program is besides $PATH, which often lacks them.
var places = []string{"/usr/sbin", "/sbin", "/usr/local/sbin"}

func findLVM() (*lvm, error) {
	if path, err := exec.LookPath("lvm"); err == nil && filepath.IsAbs(path) {
		return &lvm{path}, nil
	}
	for _, dir := range places {
		path := filepath.Join(dir, "lvm")
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return &lvm{path}, nil
		}
	}
	return nil, errs.WithHint(errs.E(errs.Unsupported, "the kernel runs this volume group, and there is no lvm program to change it with"),
		"Install lvm2.")
}

// environment is what lvm2 sees of ours: no language, no paths of a user.
func environment(getenv func(string) string) []string {
	env := []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "LVM_SUPPRESS_FD_WARNINGS=1"}
	for _, name := range []string{"LVM_SYSTEM_DIR", "DM_DISABLE_UDEV", "DM_DEV_DIR"} {
		if value := getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// run runs a command and returns what it printed. Arguments never see a shell.
//
// It is not ended with the context: what has begun to change metadata or tables
// ends by itself. It gets a process group of its own, so that a Ctrl-C is not
// sent to it either.
func (l *lvm) run(command string, args []string) (stdout, stderr []byte, err error) {
	if !slices.Contains(commands, command) {
		return nil, nil, errs.E(errs.Usage, "%q is no command for lvm2", command)
	}
	cmd := exec.Command(l.path, append([]string{command}, args...)...)
	cmd.Dir = "/"
	cmd.Env = environment(os.Getenv)
	cmd.SysProcAttr = ownGroup()
	var out, complaint bounded
	cmd.Stdout, cmd.Stderr = &out, &complaint
	// A merge is watched by a process that lvconvert leaves behind.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", l.path, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-time.After(commandTime):
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case err = <-ended:
			err = errs.E(errs.Busy, "lvm %s was interrupted after %v: %w", command, commandTime, err)
		case <-time.After(endingTime):
			return nil, nil, errs.WithHint(errs.E(errs.Busy, "lvm %s has been running for more than %v and does not end", command, commandTime),
				"It is process %d; what it waits for stands in /proc/%d/stack.", cmd.Process.Pid, cmd.Process.Pid)
		}
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return out.Bytes(), complaint.Bytes(), err
}

// change runs a command that alters something, and returns what it warned of.
// The answer to every question is yes: what is asked has been decided above.
func (l *lvm) change(ctx context.Context, command string, args ...string) (notes []string, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	stdout, stderr, err := l.run(command, append([]string{"--yes"}, args...))
	if err != nil {
		return nil, failure(command, args, stderr, err)
	}
	return append(remarks(stdout), remarks(stderr)...), nil
}

// failure is what a command had to say when it failed.
func failure(command string, args []string, stderr []byte, err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	var lines []string
	for line := range strings.Lines(string(stderr)) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		lines = []string{err.Error()}
	}
	return errs.WithHint(errs.E(errs.Other, "lvm %s: %s", command, strings.Join(lines, "; ")),
		"The command was: lvm %s %s", command, strings.Join(args, " "))
}

// remarks are the lines of an output that a person should see: warnings, and
// what became of a size. That a volume was created the caller says itself.
func remarks(output []byte) []string {
	var out []string
	for line := range strings.Lines(string(output)) {
		line = strings.TrimSpace(line)
		for _, beginning := range []string{"WARNING:", "Rounding ", "Reducing ", "Merging of ", "Delaying "} {
			if strings.HasPrefix(line, beginning) && !strings.Contains(line, "NOT backed up") {
				out = append(out, line)
			}
		}
	}
	return out
}

// report runs a reporting command and returns the rows of one of its reports.
func (l *lvm) report(ctx context.Context, kind, command string, args ...string) ([]map[string]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	stdout, stderr, err := l.run(command, append([]string{"--reportformat", "json"}, args...))
	if err != nil {
		return nil, failure(command, args, stderr, err)
	}
	return decodeReport(stdout, kind)
}

// decodeReport reads lvm2's JSON: {"report": [{"vg": [{"vg_name": "..."}]}]}.
func decodeReport(text []byte, kind string) ([]map[string]string, error) {
	var r struct {
		Report []map[string]json.RawMessage `json:"report"`
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, errs.E(errs.Corrupt, "what lvm2 reports is not JSON: %w", err)
	}
	var rows []map[string]string
	for _, part := range r.Report {
		if part[kind] == nil {
			continue
		}
		var some []map[string]string
		if err := json.Unmarshal(part[kind], &some); err != nil {
			return nil, errs.E(errs.Corrupt, "what lvm2 reports of %s: %w", kind, err)
		}
		rows = append(rows, some...)
	}
	return rows, nil
}

// bounded keeps the beginning of an output.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), max(0, maxOutput-b.Len()))])
	return len(p), nil
}
