// Package lvmtest lets tests ask the real lvm2 as a judge: it attaches image
// files to loop devices and runs lvm's commands on those devices only, with a
// configuration directory of its own and without device-mapper (--driverloaded
// n), so that nothing of the machine's own LVM is read or changed.
//
// It is for tests only. It is not a way to activate volumes: lvcreate wants
// -an -Zn -Wn, and snapshots cannot be made by lvm without a kernel driver.
//
// lvm2 and the loop driver go through the page cache of the image file, so
// what a test writes to an image (and flushes from its own buffers) is what
// lvm sees, and the reverse. cowl refuses to open an image exclusively while
// a loop device is attached to it: call Detach first, or open the loop device.
package lvmtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cowl/internal/judge"
)

// LVM is one private lvm2. It is used from one goroutine.
type LVM struct {
	// Dir is its LVM_SYSTEM_DIR. Dir/backup and Dir/archive hold what
	// vgcfgbackup and automatic archiving leave.
	Dir string

	tb    testing.TB
	order []string          // images, as attached
	devs  map[string]string // image -> loop device
}

// New skips the test, with one sentence, where lvm2 cannot be judge. Loop
// devices that are attached are detached when the test ends.
func New(tb testing.TB) *LVM {
	tb.Helper()
	judge.NeedLoop(tb)
	judge.Need(tb, "lvm")
	l := &LVM{Dir: tb.TempDir(), tb: tb, devs: map[string]string{}}
	tb.Cleanup(l.Detach)
	l.configure()
	return l
}

// Attach attaches each image to a loop device and lets lvm see it, and
// returns the device paths in the same order. An image that is attached
// already keeps its device.
func (l *LVM) Attach(images ...string) []string {
	l.tb.Helper()
	var devs []string
	for _, image := range images {
		if l.devs[image] == "" {
			out, err := exec.Command(judge.Find("losetup"), "--find", "--show", image).CombinedOutput()
			if err != nil {
				l.tb.Fatalf("losetup %s: %v: %s", image, err, out)
			}
			l.devs[image] = strings.TrimSpace(string(out))
			l.order = append(l.order, image)
		}
		devs = append(devs, l.devs[image])
	}
	l.configure()
	return devs
}

// Create makes sparse images of the given sizes in bytes and attaches them.
// It returns the device paths and the images' paths.
func (l *LVM) Create(sizes ...int64) (devs, images []string) {
	l.tb.Helper()
	dir := l.tb.TempDir()
	for i, size := range sizes {
		path := filepath.Join(dir, fmt.Sprintf("disk%d.img", i))
		f, err := os.Create(path)
		if err == nil {
			err = errors.Join(f.Truncate(size), f.Close())
		}
		if err != nil {
			l.tb.Fatal(err)
		}
		images = append(images, path)
	}
	return l.Attach(images...), images
}

// Detach detaches all loop devices. Attach brings images back, perhaps under
// other device names.
func (l *LVM) Detach() {
	l.tb.Helper()
	for _, image := range l.order {
		if out, err := exec.Command(judge.Find("losetup"), "--detach", l.devs[image]).CombinedOutput(); err != nil {
			l.tb.Errorf("losetup --detach %s: %v: %s", l.devs[image], err, out)
		}
	}
	l.order, l.devs = nil, map[string]string{}
	l.configure()
}

// Run runs one lvm command ("vgs", "-o", "+tags"), fails the test if its exit
// code is not 0, and returns its standard output.
func (l *LVM) Run(args ...string) string {
	l.tb.Helper()
	stdout, stderr, err := l.Try(args...)
	if err != nil {
		l.tb.Fatalf("lvm %s: %v\n%s%s", strings.Join(args, " "), err, stdout, stderr)
	}
	return stdout
}

// Try runs one lvm command and returns what it wrote. The error is an
// *exec.ExitError if lvm ran and failed.
func (l *LVM) Try(args ...string) (stdout, stderr string, err error) {
	cmd := exec.Command(judge.Find("lvm"), append(args, "--driverloaded", "n")...)
	cmd.Env = append(os.Environ(), "LVM_SYSTEM_DIR="+l.Dir, "LVM_SUPPRESS_FD_WARNINGS=1", "LC_ALL=C", "TZ=UTC")
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	err = cmd.Run()
	const noise = "  WARNING: Activation disabled. No device-mapper interaction will be attempted.\n"
	return out.String(), strings.ReplaceAll(talk.String(), noise, ""), err
}

// configure writes lvm.conf so that exactly the attached devices are seen.
func (l *LVM) configure() {
	l.tb.Helper()
	var accept strings.Builder
	for _, image := range l.order {
		fmt.Fprintf(&accept, `"a|^%s$|", `, l.devs[image])
	}
	conf := fmt.Sprintf(`devices {
	dir = "/dev"
	scan = [ "/dev" ]
	obtain_device_list_from_udev = 0
	use_devicesfile = 0
	hints = "none"
	filter = [ %[2]s"r|.*|" ]
	global_filter = [ %[2]s"r|.*|" ]
}
global {
	locking_dir = "%[1]s/lock"
	use_lvmlockd = 0
	use_lvmpolld = 0
	event_activation = 0
}
backup {
	backup = 1
	archive = 1
	backup_dir = "%[1]s/backup"
	archive_dir = "%[1]s/archive"
}
activation {
	udev_sync = 0
	udev_rules = 0
	monitoring = 0
}
`, l.Dir, accept.String())
	if err := os.WriteFile(filepath.Join(l.Dir, "lvm.conf"), []byte(conf), 0o600); err != nil {
		l.tb.Fatal(err)
	}
}
