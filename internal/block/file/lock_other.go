//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package file

import (
	"errors"
	"os"
)

// tryLock fails: two writers at once must be impossible, so without a lock
// there is no opening with one.
func tryLock(*os.File, bool) (taken bool, err error) { return false, errors.ErrUnsupported }
