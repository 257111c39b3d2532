//go:build !unix

package daemon

import (
	"errors"
	"os"
)

// errLocked says that another process holds the lock.
var errLocked = errors.New("locked by another process")

// lockFile does nothing: this system has no locks that end with the process
// in the standard library, and the locks on the PVs keep a second owner out.
func lockFile(*os.File) error { return nil }

func ownedByUs(os.FileInfo) bool { return true }

// closeOnExec has nothing to do: nobody spawns a daemon here.
func closeOnExec(*os.File) {}

// removeLocked closes first: an open file cannot be removed.
func removeLocked(f *os.File, path string) error {
	return errors.Join(f.Close(), os.Remove(path))
}
