// Package asprogram lets a test binary stand in for the cowl program, so that
// tests which run the program need no build of their own, run what was just
// compiled, and are not taken from go test's cache when it changes.
package asprogram

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"cowl/internal/cli"
)

// variable is set for the processes that are to be cowl, and inherited by the
// daemons that they leave behind.
const variable = "COWL_TEST_IS_PROGRAM"

// Main is for TestMain: in a process that stands in for cowl it runs the
// command line and does not return.
func Main(m *testing.M) {
	if os.Getenv(variable) == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, cli.System(), os.Args[1:])
	stop()
	os.Exit(code)
}

// Install puts a program "cowl" into a new directory and returns its path.
// Whoever runs it needs Environ's variables.
func Install(t testing.TB) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "cowl")
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// Environ returns this process's environment with what makes Install's program
// cowl, and with state and sockets below the given directory, whose path
// should be short.
func Environ(dir string) []string {
	return append(os.Environ(), variable+"=1",
		"COWL_RUN_DIR="+filepath.Join(dir, "run"),
		"COWL_STATE_DIR="+filepath.Join(dir, "state"),
		"COWL_DEVICES_FILE="+filepath.Join(dir, "devices"),
		"XDG_STATE_HOME="+filepath.Join(dir, "state"))
}

// Configure writes the program's configuration file.
func Configure(t testing.TB, dir, text string) {
	t.Helper()
	state := filepath.Join(dir, "state")
	if err := os.MkdirAll(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(state, "cowl.conf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// NeverExtend is a configuration by which snapshots overflow as LVM's do.
const NeverExtend = "activation/snapshot_autoextend_threshold = 100\n"
