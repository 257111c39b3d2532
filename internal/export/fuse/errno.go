//go:build linux

package fuse

import (
	"syscall"

	"cowl/internal/errs"
)

// errnoOf is what a system call on a file fails with.
func errnoOf(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	switch errs.KindOf(err) {
	case errs.Usage:
		return syscall.EINVAL
	case errs.NotFound:
		return syscall.ENOENT
	case errs.Busy:
		return syscall.EBUSY
	case errs.NoSpace:
		return syscall.ENOSPC
	case errs.Conflict:
		return syscall.EPERM
	case errs.Unsupported:
		return syscall.EOPNOTSUPP
	case errs.Denied:
		return syscall.EACCES
	}
	return syscall.EIO
}
