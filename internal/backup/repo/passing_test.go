package repo

import (
	"os"
	"testing"

	"cowl/internal/errs"
)

// Kopia's library wants files on the way, and a process may be killed at any
// moment: while a repository is open there are none.
func TestNothingInTemporaryDirectory(t *testing.T) {
	tmp, dir := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", tmp)
	t.Setenv("TMP", tmp) // as Windows calls it
	check := func(when string) {
		t.Helper()
		found, err := os.ReadDir(tmp)
		if err != nil || len(found) > 0 {
			t.Errorf("%s: %v, %v", when, found, err)
		}
	}
	r := made(t, dir)
	check("opened")
	stored(t, r, Source{Dev: volume(t, 1*mib)})
	if _, err := r.Maintain(ctx); err != nil {
		t.Fatal(err)
	}
	check("maintained")
	if _, err := Open(ctx, local(t, dir, false), "not it", Options{}); !errs.Is(err, errs.Denied) {
		t.Error(err)
	}
	check("refused")
}
