package localstore

import (
	"os"

	"golang.org/x/sys/unix"
)

// dropCache asks the kernel to forget the clean pages of a file. Advice: an
// error changes nothing.
func dropCache(f *os.File) {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
