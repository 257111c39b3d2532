// Package freeze keeps file systems and device-mapper devices still for a
// moment, so that several snapshots can be taken at one instant: from when Hold
// returns until Release nothing is written to any of them.
//
// What is held would stay so if this process were killed, and with it whatever
// writes there. Therefore a second process, the guard, watches the first one
// through a pipe and lets everything go when it dies or takes longer than it may.
// The guard is this program started once more with other arguments, so a program
// that holds something has to begin with Guard; in another New refuses.
//
// While a file system is held, writing to it waits, be it a log line or an
// archive of metadata by a program that was called. A device that is held does
// not answer reads either: programs and libraries that lie on it cannot be
// started.
package freeze

import (
	"time"

	"cowl/internal/errs"
)

// DefaultLimit is how long things are held at most, unless somebody says
// otherwise. What writes to them waits that long at worst.
const DefaultLimit = 10 * time.Second

// Plan says what to hold.
type Plan struct {
	// Mounts are file systems to freeze, in this order: see Order, in which the
	// function Mounts returns them.
	Mounts []Mount
	// Devices are device-mapper devices to suspend, by UUID, after that. The
	// file system on one is frozen with it, and must not be among Mounts: some
	// kernels refuse to freeze it twice.
	Devices []string
	// Limit is how long they are held; 0 is DefaultLimit.
	Limit time.Duration
}

// Device is the number of a block device.
type Device struct{ Major, Minor uint32 }

// Mount is a mounted file system.
type Mount struct {
	Path   string // where it can be reached from here
	Point  string // where it is mounted, as those who use it see it
	Type   string
	Source string
	Device Device // as stat(2) has it, which is not the source's on btrfs
	Depth  int    // how many mounts came before it in the same name space
}

// errLate is Release's when things were let go of before it.
var errLate = errs.E(errs.Conflict, "file systems were held for longer than the limit, and let go before the snapshots were complete")

// guardArg is the argument that makes this program a guard.
const guardArg = "guard-of-held-devices"
