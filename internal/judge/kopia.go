package judge

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// kopiaVersion is the release of kopia that go.mod and tools/go.mod name.
const kopiaVersion = "v0.23.1"

// Kopia returns the stock kopia, built from the module that tools/go.mod
// pins and kept in the user's cache. Building takes minutes, so it is done
// where judges are required and by `make kopia`.
func Kopia(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		Absent(t, "no directory for caches: %v", err)
	}
	path := filepath.Join(cache, "cowl", "kopia-"+kopiaVersion)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if !Required() {
		Absent(t, "no stock kopia (make kopia builds it)")
	}
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Dir(strings.TrimSpace(string(mod)))
	if out, err := exec.Command("make", "-C", root, "kopia").CombinedOutput(); err != nil {
		Absent(t, "building the stock kopia: %v\n%s", err, out)
	}
	return path
}
