// Package judge is how a test asks for a tool that is not cowl's own: real
// lvm2, e2fsck, qemu, fio, a kernel. Such a tool judges cowl's work; where it
// is absent the test skips and says what is missing in one sentence.
//
// With COWL_JUDGES=required, which .ci/run sets, a missing judge is a failure,
// so that a test cannot be skipped for years without anybody noticing.
// scripts/setup installs the judges on Debian.
//
// Only tests and the test harness import this package.
package judge

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sbin are the directories that a plain user's PATH may lack, and where
// Debian keeps lvm, mke2fs and losetup.
var sbin = []string{"/usr/sbin", "/sbin", "/usr/local/sbin"}

// Need skips the test unless all the programs can be found (see Find).
func Need(t testing.TB, programs ...string) {
	t.Helper()
	var missing []string
	for _, p := range programs {
		if Find(p) == "" {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		Absent(t, "%s not installed (scripts/setup does it on Debian)", strings.Join(missing, ", "))
	}
}

// NeedRoot skips the test unless it runs as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Absent(t, "not running as root")
	}
}

// NeedLoop skips the test unless it can attach loop devices: it is root,
// losetup is there, and so is the kernel's loop driver.
func NeedLoop(t testing.TB) {
	t.Helper()
	NeedRoot(t)
	Need(t, "losetup")
	NeedFile(t, "/dev/loop-control")
}

// NeedFile skips the test unless the path (a device, say) can be opened for
// reading and writing.
func NeedFile(t testing.TB, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		Absent(t, "%v", err)
		return
	}
	f.Close()
}

// Absent ends the test because a judge is missing: it skips, or fails where
// judges are required. The reason is a phrase such as "no /dev/fuse".
func Absent(t testing.TB, format string, args ...any) {
	t.Helper()
	if Required() {
		t.Fatalf("COWL_JUDGES=required, but a judge is missing: "+format, args...)
	}
	t.Skipf("a judge is missing: "+format, args...)
}

// Required tells whether a missing judge is a failure.
func Required() bool { return os.Getenv("COWL_JUDGES") == "required" }

// Find returns a program's path, from PATH or else from the system's sbin
// directories, or "" if it is not installed.
func Find(program string) string {
	if p, err := exec.LookPath(program); err == nil {
		return p
	}
	for _, dir := range sbin {
		if p, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return p
		}
	}
	return ""
}
