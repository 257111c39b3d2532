package file

import (
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cachedBytes is how much of a read is looked for in the page cache first.
// Copying more takes longer than what is saved.
const cachedBytes = 256 << 10

// pageCache reads what is in the page cache and never waits for the disk, where
// the file system can do that. As it cannot wait, Go's scheduler need not be told of
// the system call: a good part of what a small read costs otherwise.
type pageCache struct {
	fd     uintptr
	cannot atomic.Bool
}

func newPageCache(f *os.File) *pageCache { return &pageCache{fd: f.Fd()} }

// close ends the use of the file, whose descriptor may be another one's next.
func (c *pageCache) close() { c.cannot.Store(true) }

// read returns how many of the bytes from off on it has read: all, some, or none.
func (c *pageCache) read(p []byte, off int64) int {
	if len(p) == 0 || len(p) > cachedBytes || c.cannot.Load() {
		return 0
	}
	iov := unix.Iovec{Base: &p[0]}
	iov.SetLen(len(p))
	n, _, errno := unix.RawSyscall6(unix.SYS_PREADV2, c.fd, uintptr(unsafe.Pointer(&iov)), 1,
		uintptr(off), uintptr(off>>32), unix.RWF_NOWAIT) // 64-bit kernels ignore the offset's upper half here
	if errno == 0 {
		return int(n)
	}
	if errors.Is(errno, errors.ErrUnsupported) || errno == syscall.EINVAL {
		c.cannot.Store(true)
	}
	return 0
}
