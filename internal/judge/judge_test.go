package judge

import (
	"fmt"
	"runtime"
	"testing"
)

// recorder is a testing.TB that notes how the test ended instead of ending it.
type recorder struct {
	testing.TB
	skipped, failed string
}

func (r *recorder) Helper()                   {}
func (r *recorder) Skipf(f string, a ...any)  { r.skipped = fmt.Sprintf(f, a...); runtime.Goexit() }
func (r *recorder) Fatalf(f string, a ...any) { r.failed = fmt.Sprintf(f, a...); runtime.Goexit() }

// ended runs f as a test's goroutine would and waits for it.
func ended(f func(t testing.TB)) *recorder {
	r := &recorder{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r
}

// A judge that vanishes from CI must turn the build red, and must not do so
// on a developer's machine.
func TestMissingProgram(t *testing.T) {
	need := func(t testing.TB) { Need(t, "sh", "no-such-program-as-this") }

	t.Setenv("COWL_JUDGES", "")
	r := ended(need)
	if want := "a judge is missing: no-such-program-as-this not installed (scripts/setup does it on Debian)"; r.skipped != want || r.failed != "" {
		t.Errorf("without COWL_JUDGES: skipped %q failed %q, want skipped %q", r.skipped, r.failed, want)
	}

	t.Setenv("COWL_JUDGES", "required")
	r = ended(need)
	if r.skipped != "" || r.failed == "" {
		t.Errorf("with COWL_JUDGES=required: skipped %q failed %q, want a failure", r.skipped, r.failed)
	}
}

func TestPresentProgram(t *testing.T) {
	t.Setenv("COWL_JUDGES", "required")
	if r := ended(func(t testing.TB) { Need(t, "go") }); r.skipped != "" || r.failed != "" {
		t.Errorf("go is installed, but: skipped %q failed %q", r.skipped, r.failed)
	}
	// Judges in sbin are found by a user whose PATH has no sbin.
	t.Setenv("PATH", "/nonexistent")
	if runtime.GOOS == "linux" && Find("chroot") == "" {
		t.Error("chroot not found in the sbin directories")
	}
}
