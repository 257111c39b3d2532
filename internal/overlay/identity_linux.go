package overlay

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"cowl/internal/block/file"
	"cowl/internal/errs"
	"cowl/internal/format/ovlabel"
)

// numbers returns what the operating system knows of a member.
func numbers(f *file.Device) (ovlabel.Member, error) {
	info, err := f.Stat()
	if err != nil {
		return ovlabel.Member{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ovlabel.Member{}, errs.E(errs.Unsupported, "the file system tells no inode")
	}
	if info.Mode()&os.ModeDevice != 0 {
		return diskNumbers(uint64(st.Rdev))
	}
	return ovlabel.Member{
		Kind:    ovlabel.File,
		Inode:   st.Ino,
		Changed: uint64(st.Mtim.Nano()),
		Status:  uint64(st.Ctim.Nano()),
	}, nil
}

// diskNumbers asks sysfs.
func diskNumbers(rdev uint64) (ovlabel.Member, error) {
	dir := fmt.Sprintf("/sys/dev/block/%d:%d/", unix.Major(rdev), unix.Minor(rdev))
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return ovlabel.Member{
		Kind:    ovlabel.Disk,
		Device:  hash(diskName(dir)),
		Inode:   hash(string(boot) + first(dir, "diskseq", "../diskseq")),
		Changed: sectorsChanged(dir),
	}, nil
}

// diskName is the most durable name that a disk has, with the partition's
// number; where it has none, all such disks are the same.
func diskName(dir string) string {
	name := first(dir, "dm/uuid", "loop/backing_file", "wwid", "device/wwid", "serial", "device/serial")
	if part := first(dir, "partition"); part != "" {
		name = first(dir, "../wwid", "../device/wwid", "../serial", "../device/serial", "../loop/backing_file") + " partition " + part
	}
	return name
}

// first returns what the first of the files holds that holds anything.
func first(dir string, names ...string) string {
	for _, name := range names {
		// dir is a symbolic link, so that ".." must not be cleaned away.
		if b, err := os.ReadFile(dir + filepath.FromSlash(name)); err == nil {
			if text := strings.TrimSpace(string(b)); text != "" {
				return text
			}
		}
	}
	return ""
}

// sectorsChanged returns how many sectors of a disk were written and discarded
// since it is there (Documentation/block/stat.rst).
func sectorsChanged(dir string) uint64 {
	fields := strings.Fields(first(dir, "stat"))
	var sum uint64
	for _, i := range []int{6, 13} {
		if i < len(fields) {
			n, _ := strconv.ParseUint(fields[i], 10, 64)
			sum += n
		}
	}
	return sum
}
