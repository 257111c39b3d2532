//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package file

import (
	"errors"
	"os"
)

// tryLock fails: two writers at once must be impossible, so without a lock
// there is no exclusive opening.
func tryLock(*os.File) (taken bool, err error) { return false, errors.ErrUnsupported }
