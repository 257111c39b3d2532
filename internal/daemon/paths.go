package daemon

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"cowl/internal/errs"
)

// Paths are the names in a run directory that belong to one group's daemon.
type Paths struct {
	Dir     string // the run directory itself
	Control string // <run>/<vg>.ctl: control socket
	NBD     string // <run>/<vg>.nbd: NBD exports
	Mount   string // <run>/<vg>: files, where FUSE works
	Lock    string // <run>/<vg>.pid: locked while the daemon lives
	Log     string // <run>/<vg>.log: what a spawned daemon had to say
}

// PathsFor returns the paths of the group in the run directory, absolute. It
// fails with errs.Usage where a socket's name would be longer than the
// operating system allows.
func PathsFor(runDir, group string) (Paths, error) {
	dir, err := filepath.Abs(runDir)
	if err != nil {
		return Paths{}, err
	}
	if group == "" || filepath.Base(group) != group || group[0] == '.' {
		return Paths{}, errs.E(errs.Usage, "%q cannot be the name of a volume group", group)
	}
	p := Paths{
		Dir:     dir,
		Control: filepath.Join(dir, group+".ctl"),
		NBD:     filepath.Join(dir, group+".nbd"),
		Mount:   filepath.Join(dir, group),
		Lock:    filepath.Join(dir, group+".pid"),
		Log:     filepath.Join(dir, group+".log"),
	}
	if limit := socketPathMax(); len(p.Control) > limit {
		return Paths{}, errs.WithHint(
			errs.E(errs.Usage, "socket path %s has %d bytes, %s allows %d", p.Control, len(p.Control), runtime.GOOS, limit),
			"choose a shorter run directory")
	}
	return p, nil
}

// socketPathMax is the longest path that fits sockaddr_un with its final NUL.
func socketPathMax() int {
	if runtime.GOOS == "linux" || runtime.GOOS == "windows" {
		return 107
	}
	return 103 // the BSDs, darwin among them
}

// DefaultRunDir is where daemons keep their sockets: COWL_RUN_DIR where that is
// set; otherwise /run/cowl for root, cowl in XDG_RUNTIME_DIR for users, and a
// directory of the user's own under the temporary one for those without.
func DefaultRunDir(getenv func(string) string, uid int) string {
	if dir := getenv("COWL_RUN_DIR"); dir != "" {
		return dir
	}
	switch dir := getenv("XDG_RUNTIME_DIR"); {
	case uid == 0 && runtime.GOOS == "linux":
		return "/run/cowl"
	case dir != "":
		return filepath.Join(dir, "cowl")
	case uid < 0: // windows has no uids, and a temporary directory for each user
		return filepath.Join(os.TempDir(), "cowl")
	default:
		return filepath.Join(os.TempDir(), "cowl-"+strconv.Itoa(uid))
	}
}
