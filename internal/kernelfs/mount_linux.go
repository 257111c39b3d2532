package kernelfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"cowl/internal/errs"
)

// Possible says why nothing can be mounted here, nil if it can.
func Possible() error {
	if os.Geteuid() != 0 {
		return errs.E(errs.Unsupported, "cowl reads ext2, ext3 and ext4 by itself, and to mount others needs root")
	}
	return nil
}

// fileSystem is one that we mount, recognised by its magic.
type fileSystem struct {
	name  string
	off   int64
	magic string
	flags []string // of the mount
}

// fileSystems are those for which mounting a copy beside the original is
// safe. btrfs is not among them: the kernel takes two devices with one UUID
// for one file system and mixes them up.
var fileSystems = []fileSystem{
	{name: "ext4", off: 0x438, magic: "\x53\xef"}, // its driver reads ext2 and ext3 as well
	{name: "xfs", off: 0, magic: "XFSB", flags: []string{"nouuid"}},
}

// Mount mounts the file system in a file or block device read-only and
// returns where it can be read.
//
// The mount is attached nowhere: it lives in a file descriptor, reached
// through /proc/self/fd, so nobody else sees it and it ends with the process,
// however that ends. So does the loop device (autoclear).
//
// A snapshot of a mounted file system has a journal to be replayed, and the
// kernel replays it on a read-only mount too, if it can write to the device.
// On a readOnly one it refuses, and so do we: without the journal
// ("noload") files would be old or torn, and the archive silently so.
func Mount(path string, readOnly bool) (root string, release func() error, err error) {
	mode := os.O_RDWR
	if readOnly {
		mode = os.O_RDONLY
	}
	image, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return "", nil, err
	}
	defer image.Close()
	fs, err := identify(image)
	if err != nil {
		return "", nil, err
	}
	device := path
	if st, err := image.Stat(); err == nil && st.Mode().IsRegular() {
		loop, err := attachLoop(image, readOnly)
		if err != nil {
			return "", nil, fmt.Errorf("loop device for %s: %w", path, err)
		}
		defer loop.Close() // the mount holds it from then on
		device = loop.Name()
	}
	fd, err := mountDevice(fs, device)
	if errors.Is(err, unix.EROFS) || readOnly && errors.Is(err, unix.EACCES) {
		err = errs.WithHint(
			errs.E(errs.Conflict, "the %s journal has to be replayed, and the snapshot is read-only: %w", fs.name, err),
			"Make it writable (lvchange -p rw), or back up its origin and let cowl take the snapshot.")
	}
	if err != nil {
		return "", nil, fmt.Errorf("mount %s: %w", path, err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), func() error { return unix.Close(fd) }, nil
}

// identify finds out what file system the image holds.
func identify(image io.ReaderAt) (*fileSystem, error) {
	for i, fs := range fileSystems {
		b := make([]byte, len(fs.magic))
		if _, err := image.ReadAt(b, fs.off); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if string(b) == fs.magic {
			return &fileSystems[i], nil
		}
	}
	return nil, errs.E(errs.Unsupported, "there is no ext2, ext3, ext4 or XFS")
}

// attachLoop puts a loop device over the file, for as long as somebody has
// it open.
func attachLoop(image *os.File, readOnly bool) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(image.Fd())}
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	if readOnly {
		config.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	copy(config.Info.File_name[:], image.Name())
	for try := 0; ; try++ {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, os.NewSyscallError("LOOP_CTL_GET_FREE", err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)
		if err == nil {
			return loop, nil
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) || try == 100 {
			return nil, os.NewSyscallError("LOOP_CONFIGURE", err)
		}
		// Somebody was faster: ask for the next free one.
	}
}

// mountDevice makes a detached read-only mount of the device.
func mountDevice(fs *fileSystem, device string) (int, error) {
	context, err := unix.Fsopen(fs.name, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, errs.E(errs.Unsupported, "this kernel has no %s, or is older than 5.2: %v", fs.name, err)
	}
	defer unix.Close(context)
	err = unix.FsconfigSetString(context, "source", device)
	for _, flag := range append([]string{"ro"}, fs.flags...) {
		err = errors.Join(err, unix.FsconfigSetFlag(context, flag))
	}
	if err == nil {
		err = unix.FsconfigCreate(context)
	}
	if err != nil {
		return -1, explain(context, err)
	}
	attrs := unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV |
		unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOATIME
	return unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, attrs)
}

// explain adds what the kernel has to say about a failed mount.
func explain(context int, err error) error {
	b := make([]byte, 1024)
	for {
		n, readErr := unix.Read(context, b)
		if readErr != nil || n <= 0 {
			return err
		}
		err = fmt.Errorf("%w (%s)", err, strings.TrimSpace(string(b[:n])))
	}
}
