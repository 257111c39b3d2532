package file

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"cowl/internal/block"
	"cowl/internal/errs"
)

const (
	diskSupport  = true
	directFlag   = unix.O_DIRECT
	diskLockFlag = os.O_EXCL // without O_CREATE: the kernel's own claim on a block device
)

// datasync makes a file's data durable, with the size that reading it needs.
func datasync(f *os.File) error {
	return retry(func() error { return unix.Fdatasync(int(f.Fd())) })
}

// openDirect opens a file once more, for direct I/O. It returns nil where the
// file system has none. The file is found by its descriptor: its path may be
// another's by now; errors name that path all the same. The lock stays with the
// descriptor that took it.
func openDirect(f *os.File) *os.File {
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), f.Name())
}

// retry calls again what a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// geometry returns the size and what the file or disk can do.
func geometry(f *os.File, info fs.FileInfo, disk bool) (int64, block.Caps, error) {
	if !disk {
		holes := canPunch(f, info.Size())
		return info.Size(), block.Caps{Discard: holes, Zeroes: holes, BlockSize: block.SectorSize}, nil
	}
	var size uint64
	if err := ioctl(f, unix.BLKGETSIZE64, unsafe.Pointer(&size)); err != nil {
		return 0, block.Caps{}, fmt.Errorf("BLKGETSIZE64: %w", err)
	}
	logical, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return 0, block.Caps{}, fmt.Errorf("BLKSSZGET: %w", err)
	}
	if size > math.MaxInt64/2 || logical < block.SectorSize {
		return 0, block.Caps{}, fmt.Errorf("the kernel says %d bytes in blocks of %d", size, logical)
	}
	return int64(size), block.Caps{
		Discard:   queueLimit(info, "discard_max_bytes") > 0,
		Zeroes:    queueLimit(info, "write_zeroes_max_bytes") > 0,
		BlockSize: logical,
	}, nil
}

// queueLimit reads a limit of a block device's queue from sysfs, 0 if there is
// none. Partitions have theirs in their disk's directory.
func queueLimit(info fs.FileInfo, name string) uint64 {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	dir := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	for _, queue := range []string{"/queue/", "/../queue/"} { // dir is a symlink: not to be cleaned
		if b, err := os.ReadFile(dir + queue + name); err == nil {
			n, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
			return n
		}
	}
	return 0
}

const punchMode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE

// canPunch asks the file system by making a hole behind the file's end, where
// there is nothing. A file open for reading only cannot.
func canPunch(f *os.File, size int64) bool {
	behind := (size + 4095) &^ 4095
	return behind >= size && punchHole(f, behind, 4096) == nil
}

// punchHole frees the range, which reads as zeroes afterwards. Where that does
// not exist the error is errors.ErrUnsupported.
func punchHole(f *os.File, off, length int64) error {
	return retry(func() error { return unix.Fallocate(int(f.Fd()), punchMode, off, length) })
}

// fileExtents walks data and holes with lseek, which here moves nothing that
// anybody uses: reads and writes carry their offsets.
func fileExtents(f *os.File, off, length int64) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		for at, end := off, off+length; at < end; {
			data, err := seek(f, at, unix.SEEK_DATA, end)
			if err != nil {
				yield(block.Extent{}, err)
				return
			}
			if data > at && !yield(block.Extent{Off: at, Len: data - at, Kind: block.Hole}, nil) {
				return
			}
			if data == end {
				return
			}
			hole, err := seek(f, data, unix.SEEK_HOLE, end)
			if err != nil {
				yield(block.Extent{}, err)
				return
			}
			if hole > data && !yield(block.Extent{Off: data, Len: hole - data, Kind: block.Data}, nil) {
				return
			}
			at = hole
		}
	}
}

// seek returns where the next data or hole begins, at most end. A file system
// that does not know holes has data everywhere.
func seek(f *os.File, at int64, whence int, end int64) (int64, error) {
	var to int64
	err := retry(func() (err error) {
		to, err = unix.Seek(int(f.Fd()), at, whence)
		return err
	})
	switch {
	case errors.Is(err, unix.ENXIO): // no data, or no hole, up to the file's end
		return end, nil
	case errors.Is(err, unix.EINVAL) && whence == unix.SEEK_DATA:
		return at, nil
	case errors.Is(err, unix.EINVAL):
		return end, nil
	case err != nil:
		return 0, fmt.Errorf("find holes in %s: %w", f.Name(), err)
	}
	return min(to, end), nil
}

// discardDisk discards the aligned part of the range.
func (d *Device) discardDisk(off, length int64) error {
	from, to := d.aligned(off, length)
	if from >= to {
		return nil
	}
	err := diskRange(d.f, unix.BLKDISCARD, from, to)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil // it is advice
	}
	if err != nil {
		return fmt.Errorf("discard %s: %w", d.path, err)
	}
	return nil
}

// zeroDisk has the disk zero the aligned part of the range, and writes the rest.
func (d *Device) zeroDisk(off, length int64) error {
	from, to := d.aligned(off, length)
	if from >= to {
		return block.WriteZeroBytes(d.f, off, length)
	}
	err := diskRange(d.f, unix.BLKZEROOUT, from, to)
	if errors.Is(err, errors.ErrUnsupported) {
		return block.WriteZeroBytes(d.f, off, length)
	}
	if err != nil {
		return fmt.Errorf("zero %s: %w", d.path, err)
	}
	if err := block.WriteZeroBytes(d.f, off, from-off); err != nil {
		return err
	}
	return block.WriteZeroBytes(d.f, to, off+length-to)
}

// aligned returns the part of a range that may bypass the page cache: whole
// logical blocks, and whole pages. The kernel drops the cached pages of what it
// discards or zeroes, and one shared with a neighbour that is being written
// must not be among them.
func (d *Device) aligned(off, length int64) (from, to int64) {
	unit := int64(max(os.Getpagesize(), d.caps.BlockSize))
	end := off + length
	from, to = off, end-end%unit
	if off%unit != 0 {
		from += unit - off%unit // cannot overflow: sizes of disks are far from the largest int64
	}
	return from, to
}

func diskRange(f *os.File, request uint, from, to int64) error {
	r := [2]uint64{uint64(from), uint64(to - from)}
	return ioctl(f, request, unsafe.Pointer(&r))
}

func ioctl(f *os.File, request uint, arg unsafe.Pointer) error {
	return retry(func() error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), uintptr(arg)); errno != 0 {
			return errno
		}
		return nil
	})
}

// lockPatience is how long a lock on a disk is asked for. udev holds a shared
// one while it looks at a disk, and each who asks for one here claims the disk
// for a moment.
const lockPatience = time.Second

// lockDisk takes the lock of a block device. There are two of them. The claim
// (O_EXCL) is the kernel's own, for mounts and device-mapper too, but one
// holder's alone. So those who share hold a shared flock on the device's node,
// and only make sure that there is no claim; those who have claimed it, by
// opening it, make sure that there is no flock. Whichever of two does its half
// first is seen by the other.
func lockDisk(f *os.File, path string, lock Lock) error {
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(lockPatience / 50) {
		err := tryLockDisk(f, path, lock)
		if !errs.Is(err, errs.Busy) || time.Now().After(deadline) {
			return err
		}
	}
}

func tryLockDisk(f *os.File, path string, lock Lock) error {
	taken, err := tryLock(f, lock == Shared)
	if err != nil {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	if taken {
		return errBusy(path)
	}
	if lock == Exclusive {
		return retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_UN) })
	}
	claim, err := os.OpenFile(path, os.O_RDONLY|diskLockFlag, 0)
	if err != nil {
		return explainOpen(path, true, err)
	}
	return claim.Close()
}

// allocate makes room for a range of a file. Its size stays as it is.
func allocate(f *os.File, off, length int64) error {
	return retry(func() error { return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, off, length) })
}

// loopOver returns the loop device that the file is behind, "" if none. The
// kernel names the file by the path that it was opened by: one renamed, or
// behind another mount namespace, is not recognised. One that only reads is
// no matter if readers are welcome.
func loopOver(f *os.File, readers bool) string {
	own, err := f.Stat()
	if err != nil {
		return ""
	}
	names, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, name := range names {
		path, err := os.ReadFile(name)
		if err != nil {
			continue // detached meanwhile
		}
		backing, err := os.Stat(strings.TrimSuffix(string(path), "\n"))
		disk := filepath.Dir(filepath.Dir(name))
		if err == nil && os.SameFile(own, backing) && !(readers && isReadOnly(disk)) {
			return "/dev/" + filepath.Base(disk)
		}
	}
	return ""
}

// isReadOnly reports whether a disk, by its directory in sysfs, takes no writes.
func isReadOnly(disk string) bool {
	flag, err := os.ReadFile(filepath.Join(disk, "ro"))
	return err == nil && strings.TrimSpace(string(flag)) == "1"
}
