//go:build unix

package quiet

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cowl/internal/judge"
)

// After the death of this process, which is the end of its pipe, what was stopped
// goes on, once the hook that stops it is done; and else nothing is run twice.
func TestStandby(t *testing.T) {
	judge.NeedFile(t, "/bin/sh")
	dir := t.TempDir()
	log, release := filepath.Join(dir, "log"), filepath.Join(dir, "release")
	const note = `echo "$COWL_STAGE $COWL_VOLUMES $COWL_RESULT" >> "$HOOK_LOG"`
	t.Setenv("HOOK_LOG", log)
	h := Hooks{Commands: map[Stage]string{BeforeSnapshot: note, AfterSnapshot: note}}
	logged := func() []string {
		t.Helper()
		text, err := os.ReadFile(log)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(string(text)), "\n")
	}
	start := func() *standby {
		by, err := h.newStandby(Subject{Volumes: []string{"vg/lv"}})
		if err != nil {
			t.Fatal(err)
		}
		return by
	}
	by := start()
	by.dismiss()
	if got := logged(); !slices.Equal(got, []string{""}) {
		t.Errorf("one that was dismissed has run %q", got)
	}

	hook := exec.Command("/bin/sh", "-c", "until [ -e '"+release+"' ]; do sleep 0.01; done; echo stopped >> '"+log+"'")
	if err := hook.Start(); err != nil {
		t.Fatal(err)
	}
	by = start()
	by.watch(hook.Process.Pid)
	by.tell.Close()
	if got := logged(); !slices.Equal(got, []string{""}) {
		t.Errorf("while a hook is running: %q", got)
	}
	if err := exec.Command("touch", release).Run(); err != nil {
		t.Fatal(err)
	}
	if err := hook.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := by.cmd.Wait(); err != nil {
		t.Error(err)
	}
	if got, want := logged(), []string{"stopped", "after-snapshot vg/lv failed"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}

	delete(h.Commands, BeforeSnapshot)
	if by := start(); by != nil {
		t.Error("nothing is stopped, and something stands by")
	}
}
