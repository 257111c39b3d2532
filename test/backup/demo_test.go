package backup

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The first thing that a new user sees has to work, and keep to itself.
func TestDemo(t *testing.T) {
	dir := filepath.Join(shortDir(t), "d")
	var out bytes.Buffer
	cmd := demo(t, dir)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, want := range []string{"All of it held", "$ cowl backup demo/data --to backups", "rm -r " + dir, "is in use (1 open)"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "✗") || strings.Contains(out.String(), "\x1b") {
		t.Errorf("it says\n%s", &out)
	}
	nothingRuns(t, dir)
	out.Reset()
	cmd = demo(t, dir)
	cmd.Stderr = &out
	if err := cmd.Run(); err == nil || !strings.Contains(out.String(), "is not empty") {
		t.Errorf("a second demo in the same directory: %v\n%s", err, &out)
	}
}

// Interrupted in any chapter, the demo stops its daemon and says how to go on.
func TestDemoInterrupted(t *testing.T) {
	for _, chapter := range []string{"2. ", "4. ", "8. "} {
		dir := filepath.Join(shortDir(t), "d")
		cmd := demo(t, dir)
		w := &watcher{want: chapter, seen: make(chan struct{})}
		cmd.Stdout, cmd.Stderr = w, w
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-w.seen:
		case <-time.After(time.Minute):
			t.Errorf("chapter %sis not reached", chapter)
		}
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil || !strings.Contains(w.text.String(), "rm -r "+dir) {
			t.Errorf("interrupted in chapter %s: %v\n%s", chapter, err, &w.text)
		}
		nothingRuns(t, dir)
	}
}

// watcher waits for a line that begins with some text.
type watcher struct {
	want string
	seen chan struct{}
	text bytes.Buffer
	done bool
}

// Write implements io.Writer.
func (w *watcher) Write(b []byte) (int, error) {
	w.text.Write(b)
	if !w.done && strings.Contains(w.text.String(), "\n"+w.want) {
		w.done = true
		close(w.seen)
	}
	return len(b), nil
}

func demo(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	program, err := build()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "demo", dir)
	cmd.Env = append(os.Environ(), "COWL_DEVICES=", "COWL_RUN_DIR=/nowhere", "COWL_STATE_DIR=/nowhere")
	return cmd
}

// nothingRuns checks that no daemon serves the demo's group.
func nothingRuns(t *testing.T, dir string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "run", "*.ctl"))
	if err != nil || len(found) > 0 {
		t.Errorf("still there: %q (%v)", found, err)
	}
	if mounts, err := os.ReadFile("/proc/mounts"); err == nil && bytes.Contains(mounts, []byte(dir)) {
		t.Errorf("something is still mounted below %s", dir)
	}
}

// shortDir is a temporary directory in which sockets can be.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cowl-demo-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
