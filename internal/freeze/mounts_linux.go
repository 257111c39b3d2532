package freeze

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Mounts returns the file systems that are mounted from the devices, in the
// order in which they can be frozen, each once. It looks into the mount name
// spaces of other processes as well, which containers have.
func Mounts(devices ...Device) ([]Mount, error) { return mountsIn("/proc", devices) }

func mountsIn(proc string, devices []Device) ([]Mount, error) {
	if len(devices) == 0 {
		return nil, nil
	}
	own, err := os.ReadFile(proc + "/self/mountinfo")
	if err != nil {
		return nil, err
	}
	found := on(devices, parseMounts(own), "")
	seen := map[string]bool{namespace(proc + "/self"): true}
	others, err := filepath.Glob(proc + "/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, dir := range others {
		// A process that has ended meanwhile, or is not ours to see, has none.
		if ns := namespace(dir); ns != "" && !seen[ns] {
			if text, err := os.ReadFile(dir + "/mountinfo"); err == nil {
				seen[ns] = true
				found = append(found, on(devices, parseMounts(text), dir+"/root")...)
			}
		}
	}
	return Order(found), nil
}

func namespace(dir string) string {
	name, _ := os.Readlink(dir + "/ns/mnt")
	return name
}

// on returns the mounts that are of the devices. A file system like btrfs has a
// device number of its own, and is known by its source.
func on(devices []Device, mounts []Mount, root string) []Mount {
	var out []Mount
	for _, m := range mounts {
		if !slices.Contains(devices, m.Device) && (!strings.HasPrefix(m.Source, "/dev/") || !slices.Contains(devices, numberOf(m.Source))) {
			continue
		}
		m.Path = root + m.Point
		out = append(out, m)
	}
	return out
}

// numberOf returns the number of a block device, that of no device if it is
// none.
func numberOf(path string) Device {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return Device{}
	}
	return Device{unix.Major(st.Rdev), unix.Minor(st.Rdev)}
}

// open returns the mount's directory, if the file system is still there.
func (m Mount) open() (*os.File, error) {
	f, err := os.OpenFile(m.Path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		// A file can be a mount point, too.
		f, err = os.OpenFile(m.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, err
	}
	if now := (Device{unix.Major(st.Dev), unix.Minor(st.Dev)}); now != m.Device {
		f.Close()
		return nil, fmt.Errorf("%s: another file system (%d:%d) is mounted there now", m.Point, now.Major, now.Minor)
	}
	return f, nil
}
