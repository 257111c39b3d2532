package file_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"cowl/internal/block/file"
	"cowl/internal/errs"
)

const holdEnv = "COWL_FILETEST_HOLD"

// TestMain makes the test binary its own helper: a process that holds a lock
// until its standard input closes.
func TestMain(m *testing.M) {
	if path := os.Getenv(holdEnv); path != "" {
		d, err := file.Open(path, file.Options{Lock: file.Exclusive})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("locked")
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = d.Close()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// holder starts a process that tries to lock the path, and returns what it says.
func holder(t *testing.T, path string) (says string, cmd *exec.Cmd, release func()) {
	t.Helper()
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holdEnv+"="+path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	release = func() {
		_ = in.Close()
		_ = cmd.Wait()
	}
	t.Cleanup(release)
	says, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("helper says %q: %v", says, err)
	}
	return strings.TrimSpace(says), cmd, release
}

// exclusion checks every way in which two could write to one path.
func exclusion(t *testing.T, path string) {
	exclusive := file.Options{Lock: file.Exclusive}
	busy := func(when string, o file.Options) {
		t.Helper()
		d, err := file.Open(path, o)
		if err == nil {
			_ = d.Close()
		}
		if !errs.Is(err, errs.Busy) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want errs.Busy naming %s", when, err, path)
		}
	}
	d := open(t, path, exclusive)
	busy("open here", exclusive)
	busy("open here, to read", file.Options{ReadOnly: true, Lock: file.Exclusive})
	if says, _, _ := holder(t, path); !strings.Contains(says, "in use") {
		t.Errorf("another process says %q while it is open here", says)
	}
	if err := open(t, path, file.Options{ReadOnly: true}).Close(); err != nil {
		t.Errorf("open without a lock, beside one: %v", err)
	}
	busy("still open here", exclusive)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}

	says, _, release := holder(t, path)
	if says != "locked" {
		t.Fatalf("another process says %q after Close here", says)
	}
	busy("open in another process", exclusive)
	release()
	says, cmd, release := holder(t, path)
	if says != "locked" {
		t.Fatalf("another process says %q", says)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	release()
	// The kernel closes a dead process's files in its own time.
	deadline := time.Now().Add(5 * time.Second)
	for {
		d, err := file.Open(path, exclusive)
		if err == nil {
			_ = d.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("a killed process keeps its lock: %v", err)
		}
	}
}

func TestExclusiveFile(t *testing.T) {
	d := create(t, 4096)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	exclusion(t, d.Path())
}

// sharing checks what a shared lock lets in and keeps out.
func sharing(t *testing.T, path string) {
	shared := file.Options{ReadOnly: true, Lock: file.Shared}
	exclusive := file.Options{Lock: file.Exclusive}
	refused := func(when string, o file.Options) {
		t.Helper()
		d, err := file.Open(path, o)
		if err == nil {
			_ = d.Close()
		}
		if !errs.Is(err, errs.Busy) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want errs.Busy naming %s", when, err, path)
		}
	}
	first := open(t, path, shared)
	second := open(t, path, shared)
	refused("to change what two read", exclusive)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	refused("to change what one reads", exclusive)
	if says, _, _ := holder(t, path); !strings.Contains(says, "in use") {
		t.Errorf("another process says %q of what is read here", says)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	owner := open(t, path, exclusive)
	refused("to read what somebody changes", shared)
	if err := owner.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, path, shared)
}

func TestSharedFile(t *testing.T) {
	d := create(t, 4096)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	sharing(t, d.Path())
}
