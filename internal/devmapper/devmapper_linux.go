package devmapper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"cowl/internal/errs"
)

// The numbers of the ioctls.
const (
	cmdSuspend     = 6
	cmdDevStatus   = 7
	cmdTableStatus = 12
)

const controlPath = "/dev/mapper/control"

// Control is the open control device. Its methods may be called in parallel.
type Control struct{ f *os.File }

// Open opens the control device. It fails with errs.Unsupported where the kernel
// has no device-mapper, and errs.Denied for others than root.
func Open() (*Control, error) {
	f, err := os.OpenFile(controlPath, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, errs.WithHint(errs.E(errs.Unsupported, "this kernel has no device-mapper: %w", err), "Load it: modprobe dm_mod")
	}
	if err != nil {
		return nil, err
	}
	return &Control{f}, nil
}

// Close closes the control device.
func (c *Control) Close() error { return c.f.Close() }

// ioctl is _IOWR(0xfd, cmd, struct dm_ioctl).
func (c *Control) ioctl(cmd uintptr, b []byte) error {
	const readWrite, group = 3 << 30, 0xfd << 8
	for {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, c.f.Fd(), readWrite|headerSize<<16|group|cmd, uintptr(unsafe.Pointer(&b[0])))
		runtime.KeepAlive(b)
		if e == 0 {
			return nil
		}
		if e != unix.EINTR {
			return e
		}
	}
}

// explain names the device in an error.
func explain(what, uuid string, err error) error {
	if errors.Is(err, unix.ENXIO) {
		return errs.E(errs.NotFound, "the kernel has no device %s", uuid)
	}
	return fmt.Errorf("device-mapper: %s %s: %w", what, uuid, err)
}

// Info describes a device. errs.NotFound: there is none of that UUID.
func (c *Control) Info(uuid string) (Info, error) {
	b, err := request(uuid, 0, headerSize)
	if err != nil {
		return Info{}, err
	}
	if err := c.ioctl(cmdDevStatus, b); err != nil {
		return Info{}, explain("look at", uuid, err)
	}
	return decodeInfo(b)
}

// Status returns the lines of a device's table with their status. errs.NotFound:
// there is no device of that UUID.
func (c *Control) Status(uuid string) ([]Target, error) { return c.table(uuid, 0) }

// Table returns the lines of a device's table with their parameters.
func (c *Control) Table(uuid string) ([]Target, error) { return c.table(uuid, flagTable) }

func (c *Control) table(uuid string, flags uint32) ([]Target, error) {
	for size := 4 << 10; ; size *= 4 {
		b, err := request(uuid, flags, size)
		if err != nil {
			return nil, err
		}
		if err := c.ioctl(cmdTableStatus, b); err != nil {
			return nil, explain("status of", uuid, err)
		}
		if binary.NativeEndian.Uint32(b[offFlags:])&flagBufferFull == 0 {
			return decodeTargets(b)
		}
		if size >= maxBuffer {
			return nil, errs.E(errs.Unsupported, "device-mapper: the table of %s is larger than %d bytes", uuid, size)
		}
	}
}

// Suspend makes a device's requests wait, after those on their way are done. The
// file system that is mounted from it is frozen first, so that what the device
// holds then needs no repair. Suspending a device that is suspended does nothing.
func (c *Control) Suspend(uuid string) error { return c.suspend("suspend", uuid, flagSuspend) }

// Resume lets a device's requests go on, and its file system. Resuming a device
// that is not suspended does nothing.
func (c *Control) Resume(uuid string) error { return c.suspend("resume", uuid, 0) }

func (c *Control) suspend(what, uuid string, flags uint32) error {
	b, err := request(uuid, flags, headerSize)
	if err != nil {
		return err
	}
	if err := c.ioctl(cmdSuspend, b); err != nil {
		return explain(what, uuid, err)
	}
	return nil
}

// List returns the devices whose UUID begins with prefix, by name, without Opens.
// It needs no privileges.
func List(prefix string) ([]Info, error) { return listIn("/sys/block", prefix) }

func listIn(sys, prefix string) ([]Info, error) {
	nodes, err := filepath.Glob(sys + "/dm-*")
	if err != nil {
		return nil, err
	}
	var out []Info
	for _, dir := range nodes {
		d := Info{
			Name: read(dir + "/dm/name"), UUID: read(dir + "/dm/uuid"),
			Suspended: read(dir+"/dm/suspended") == "1", ReadOnly: read(dir+"/ro") == "1",
		}
		if d.Name == "" || !strings.HasPrefix(d.UUID, prefix) {
			continue
		}
		// A device that is being made has a size of 0 until its table is there.
		d.Live = read(dir+"/size") != "0"
		major, minor, _ := strings.Cut(read(dir+"/dev"), ":")
		d.Major, d.Minor = number(major), number(minor)
		out = append(out, d)
	}
	return out, nil
}

// read returns a line of sysfs, "" if it is not there.
func read(path string) string {
	text, _ := os.ReadFile(path)
	return strings.TrimSpace(string(text))
}

func number(text string) uint32 {
	n, _ := strconv.ParseUint(text, 10, 32)
	return uint32(n)
}
