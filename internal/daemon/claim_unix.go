//go:build unix

package daemon

import (
	"errors"
	"os"
	"syscall"
)

// errLocked says that another process holds the lock.
var errLocked = syscall.EWOULDBLOCK

// lockFile locks an open file until it is closed or the process ends.
func lockFile(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func ownedByUs(fi os.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// closeOnExec keeps an inherited file from being inherited any further.
func closeOnExec(f *os.File) { syscall.CloseOnExec(int(f.Fd())) }

// removeLocked removes a file and then gives up its lock, in this order: once
// it is unlocked, it may be another process's.
func removeLocked(f *os.File, path string) error {
	return errors.Join(os.Remove(path), f.Close())
}
