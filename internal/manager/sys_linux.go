package manager

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// loopFile returns the file behind a loop device, "" if the path is none.
func loopFile(path string) string {
	name, ok := strings.CutPrefix(path, "/dev/loop")
	if !ok {
		return ""
	}
	b, err := os.ReadFile("/sys/block/loop" + name + "/loop/backing_file")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// isPartition reports whether the path is the kernel's device of a partition.
func isPartition(path string) bool {
	_, err := os.Stat("/sys/class/block/" + strings.ReplaceAll(strings.TrimPrefix(path, "/dev/"), "/", "!") + "/partition")
	return err == nil && strings.HasPrefix(path, "/dev/")
}

// hasPartitionDevices reports whether the kernel has made devices of the
// partitions of a disk.
func hasPartitionDevices(path string) bool {
	name, ok := strings.CutPrefix(path, "/dev/")
	if !ok {
		return false
	}
	found, _ := filepath.Glob("/sys/class/block/" + strings.ReplaceAll(name, "/", "!") + "/*/partition")
	return len(found) > 0
}

// deviceNumber returns the major and minor number of a block device, 0 for a
// file.
func deviceNumber(path string) (major, minor uint32) {
	info, err := os.Stat(path)
	if err != nil || info.Mode()&fs.ModeDevice == 0 {
		return 0, 0
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0
	}
	return unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
}

// blockDevices lists the block devices that LVM2 would look at without a
// devices file: all with a size, but for its own volumes, RAM disks, and
// components of md arrays and multipath devices, whose label is the whole's.
func blockDevices(root string) []string {
	class := filepath.Join(root, "/sys/class/block")
	names, err := os.ReadDir(class)
	if err != nil {
		return nil
	}
	var out []string
	for _, n := range names {
		dir := filepath.Join(class, n.Name())
		if sysNumber(filepath.Join(dir, "size")) > 0 && !ours(dir, n.Name()) && !component(dir, class) {
			out = append(out, filepath.Join(root, "/dev", strings.ReplaceAll(n.Name(), "!", "/")))
		}
	}
	slices.Sort(out)
	return out
}

func ours(dir, name string) bool {
	return strings.HasPrefix(name, "ram") || strings.HasPrefix(name, "zram") ||
		strings.HasPrefix(sysText(filepath.Join(dir, "dm/uuid")), "LVM-")
}

// component reports whether something that shows the same label stands on the
// device.
func component(dir, class string) bool {
	holders, _ := os.ReadDir(filepath.Join(dir, "holders"))
	return slices.ContainsFunc(holders, func(e fs.DirEntry) bool {
		return strings.HasPrefix(e.Name(), "md") ||
			strings.HasPrefix(sysText(filepath.Join(class, e.Name(), "dm/uuid")), "mpath-")
	})
}

// standsOn reports whether a device stands on one of those with the numbers.
func standsOn(major, minor uint32, numbers map[string]bool) bool {
	queue := []string{fmt.Sprintf("%d:%d", major, minor)}
	seen := map[string]bool{}
	for i := 0; i < len(queue); i++ {
		dir := "/sys/dev/block/" + queue[i] + "/slaves"
		below, _ := os.ReadDir(dir)
		for _, e := range below {
			number := sysText(filepath.Join(dir, e.Name(), "dev"))
			if numbers[number] {
				return true
			}
			if !seen[number] && number != "" {
				seen[number] = true
				queue = append(queue, number)
			}
		}
	}
	return false
}

func sysText(path string) string {
	b, _ := os.ReadFile(path)
	return strings.TrimSpace(string(b))
}

func sysNumber(path string) uint64 {
	n, _ := strconv.ParseUint(sysText(path), 10, 64)
	return n
}
