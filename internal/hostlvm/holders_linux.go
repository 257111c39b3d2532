package hostlvm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"cowl/internal/freeze"
)

// holders says who has a device open, as far as that can be seen: mounts in all
// name spaces, devices above it, swap, and processes. It is for people.
func holders(dev freeze.Device) []string {
	var out []string
	mounts, _ := freeze.Mounts(dev)
	for _, m := range mounts {
		out = append(out, "mounted on "+m.Point)
	}
	for _, name := range above(dev) {
		out = append(out, "below device "+name)
	}
	out = append(out, swaps(dev)...)
	return append(out, openIn("/proc", dev)...)
}

// above names the devices that stand on a device.
func above(dev freeze.Device) []string {
	dir := fmt.Sprintf("/sys/dev/block/%d:%d/holders", dev.Major, dev.Minor)
	entries, _ := os.ReadDir(dir)
	var out []string
	for _, e := range entries {
		name := e.Name()
		if text, err := os.ReadFile(filepath.Join(dir, name, "dm/name")); err == nil {
			name = strings.TrimSpace(string(text))
		}
		out = append(out, name)
	}
	return out
}

func swaps(dev freeze.Device) []string {
	text, _ := os.ReadFile("/proc/swaps")
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 0 && numberOf(f[0]) == dev {
			return []string{"in use as swap"}
		}
	}
	return nil
}

// openIn names the processes that have a device open, this one excepted.
func openIn(proc string, dev freeze.Device) []string {
	dirs, _ := filepath.Glob(proc + "/[0-9]*")
	var out []string
	for _, dir := range dirs {
		pid := filepath.Base(dir)
		if pid == fmt.Sprint(os.Getpid()) {
			continue
		}
		files, _ := os.ReadDir(dir + "/fd") // others' are for root only
		if slices.ContainsFunc(files, func(e os.DirEntry) bool { return numberOf(dir+"/fd/"+e.Name()) == dev }) {
			name, _ := os.ReadFile(dir + "/comm")
			out = append(out, fmt.Sprintf("open in process %s (%s)", pid, strings.TrimSpace(string(name))))
		}
	}
	return out
}

// ownFiles counts this process's open files of a device.
func ownFiles(dev freeze.Device) int {
	n := 0
	files, _ := os.ReadDir("/proc/self/fd")
	for _, e := range files {
		if numberOf("/proc/self/fd/"+e.Name()) == dev {
			n++
		}
	}
	return n
}

// numberOf returns the number of the block device at a path, that of none if it
// is something else.
func numberOf(path string) freeze.Device {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return freeze.Device{}
	}
	return freeze.Device{Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev)}
}

// ownGroup keeps a Ctrl-C in the terminal from a child.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
