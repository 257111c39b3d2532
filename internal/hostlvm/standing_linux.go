package hostlvm

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cowl/internal/devmapper"
	"cowl/internal/freeze"
)

// standing are the file systems on a volume.
type standing struct {
	direct   []freeze.Mount // on the volume itself
	indirect []freeze.Mount // on a device that stands on the volume
}

// standingOn finds the file systems that are mounted from a volume, or from
// something above it.
func standingOn(info devmapper.Info) (standing, error) {
	self := freeze.Device{Major: info.Major, Minor: info.Minor}
	all := devicesAbove("/sys", self)
	mounts, err := freeze.Mounts(all...)
	if err != nil {
		return standing{}, err
	}
	var s standing
	for _, m := range mounts {
		// btrfs has a device number of its own.
		if m.Device == self || numberOf(m.Source) == self {
			s.direct = append(s.direct, m)
		} else {
			s.indirect = append(s.indirect, m)
		}
	}
	return s, nil
}

// devicesAbove returns a device and all that stand on it.
func devicesAbove(sys string, dev freeze.Device) []freeze.Device {
	all := []freeze.Device{dev}
	seen := map[freeze.Device]bool{dev: true}
	for i := 0; i < len(all); i++ {
		dir := sys + "/dev/block/" + strconv.Itoa(int(all[i].Major)) + ":" + strconv.Itoa(int(all[i].Minor)) + "/holders"
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			text, _ := os.ReadFile(filepath.Join(dir, e.Name(), "dev"))
			major, minor, _ := strings.Cut(strings.TrimSpace(string(text)), ":")
			a, err := strconv.ParseUint(major, 10, 32)
			b, err2 := strconv.ParseUint(minor, 10, 32)
			next := freeze.Device{Major: uint32(a), Minor: uint32(b)}
			if err == nil && err2 == nil && !seen[next] {
				seen[next] = true
				all = append(all, next)
			}
		}
	}
	return all
}

// needed reports whether files are on the volume that lvm2, or we, may have to
// read or write while it is held.
func (s standing) needed(lvm string) bool {
	self, _ := os.Executable()
	if real, err := filepath.EvalSymlinks(lvm); err == nil {
		lvm = real
	}
	for _, path := range []string{lvm, self, "/", "/usr", "/lib", "/usr/lib", "/etc", "/etc/lvm", "/run", "/dev"} {
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil {
			continue
		}
		dev := freeze.Device{Major: unix.Major(st.Dev), Minor: unix.Minor(st.Dev)}
		for _, m := range append(s.direct, s.indirect...) {
			if m.Device == dev {
				return true
			}
		}
	}
	return false
}
