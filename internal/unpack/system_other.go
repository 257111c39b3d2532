//go:build !linux

package unpack

import (
	"errors"
	"os"

	"cowl/internal/archive"
	"cowl/internal/errs"
)

func (u *unpacker) device(*item) error {
	return errs.E(errs.Unsupported, "device files and pipes are made on Linux only")
}

// describe gives a file what the tree says of it, as far as this system has it.
func (u *unpacker) describe(it *item, f *os.File) error {
	h := it.header
	mode := os.FileMode(h.Mode & 0o777)
	if err := it.in.root.Lchown(it.tmp, int(h.UID), int(h.GID)); err != nil {
		u.notSet("owners", it.rel, err, os.Geteuid() != 0)
	} else {
		for bit, m := range map[uint32]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
			if h.Mode&bit != 0 {
				mode |= m
			}
		}
	}
	if len(it.xattrs) > 0 {
		u.notSet("extended attributes", it.rel, errors.New("cowl sets them on Linux only"), false)
	}
	if h.Mode&archive.ModeType == archive.ModeLink {
		return nil // its own time cannot be set
	}
	if err := it.in.root.Chmod(it.tmp, mode); err != nil {
		return writeError{err}
	}
	if err := it.in.root.Chtimes(it.tmp, h.Atime, h.Mtime); err != nil {
		return writeError{err}
	}
	return nil
}

// publish gives a file its name.
func (u *unpacker) publish(in *place, tmp, base string) error {
	if u.o.Overwrite {
		return u.replace(in, tmp, base)
	}
	return u.publishByLink(in, tmp, base)
}

// sync makes durable what was unpacked, as far as one call does.
func (u *unpacker) sync() error { return nil }
