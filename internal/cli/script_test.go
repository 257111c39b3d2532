//go:build unix

package cli

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cowl/internal/block"
	"cowl/internal/kernelfs"
)

// TestMain lets the scripts run the test binary as cowl, and lets cowl start
// its daemon from it.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cowl": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		code := Main(ctx, System(), os.Args[1:])
		stop()
		os.Exit(code)
	}})
}

// TestScripts runs what people type. Every script has directories of its own,
// so that nothing of this machine is read or changed.
func TestScripts(t *testing.T) {
	formats, err := filepath.Abs("../format")
	if err != nil {
		t.Fatal(err)
	}
	content := &lvContent{held: map[string]block.Device{}}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			for _, v := range []string{"COWL_DEVICES", "COWL_DEVICES_FILE"} {
				e.Setenv(v, "")
			}
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("COWL_STATE_DIR", filepath.Join(e.WorkDir, "state"))
			e.Setenv("XDG_STATE_HOME", filepath.Join(e.WorkDir, "state"))
			e.Setenv("TZ", "UTC")
			e.Setenv("FORMATS", formats)
			// A socket's path is short, a script's directory may not be.
			run, err := os.MkdirTemp("", "cowl")
			if err != nil {
				return err
			}
			e.Setenv("COWL_RUN_DIR", run)
			e.Defer(func() { endDaemons(t, run) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"mkimage": mkimage, "lv": content.run, "overlay": overlayContent, "waitfor": waitFor, "setglob": setglob, "flip": flip,
			"firstbackup": firstBackup, "setmatch": setMatch, "biggest": biggest, "noise": makeNoise, "exitcode": exitCodeIs,
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "fuse":
				return hasFuse(), nil
			case "mounts": // what only the kernel reads
				_, err := os.Stat("/dev/loop-control")
				return hasFuse() && err == nil && kernelfs.Possible() == nil, nil
			}
			return false, strconv.ErrSyntax
		},
	})
}

func hasFuse() bool {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// endDaemons ends what a script that failed has left behind.
func endDaemons(t *testing.T, run string) {
	locks, _ := filepath.Glob(filepath.Join(run, "*.pid"))
	for _, lock := range locks {
		text, err := os.ReadFile(lock)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil || pid <= 1 || syscall.Kill(pid, syscall.SIGTERM) != nil {
			continue
		}
		t.Logf("ending daemon %d that the script left", pid)
		for deadline := time.Now().Add(10 * time.Second); syscall.Kill(pid, 0) == nil && time.Now().Before(deadline); {
			time.Sleep(20 * time.Millisecond)
		}
	}
	os.RemoveAll(run)
}

// mkimage SIZE FILE... makes sparse files of so many MiB.
func mkimage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: mkimage MIB FILE...")
	}
	size, err := strconv.ParseInt(args[0], 10, 64)
	ts.Check(err)
	for _, name := range args[1:] {
		f, err := os.Create(ts.MkAbs(name))
		ts.Check(err)
		ts.Check(f.Truncate(size << 20))
		ts.Check(f.Close())
	}
}

// waitFor runs a command until it prints nothing.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		ts.Check(ts.Exec(args[0], args[1:]...))
		if strings.TrimSpace(ts.ReadFile("stdout")) == "" != neg {
			return
		}
	}
	ts.Fatalf("%s still prints %s", strings.Join(args, " "), ts.ReadFile("stdout"))
}
