//go:build !linux

package kernelfs

import (
	"os"

	"cowl/internal/archive"
	"cowl/internal/block"
	"cowl/internal/errs"
)

// Possible says why nothing can be mounted here.
func Possible() error {
	return errs.E(errs.Unsupported, "cowl reads ext2, ext3 and ext4 by itself, and mounts others on Linux only")
}

// Mount is Linux's.
func Mount(string, bool) (root string, release func() error, err error) { return "", nil, Possible() }

// MountDevice is Linux's.
func MountDevice(block.Device) (root string, release func() error, err error) {
	return "", nil, Possible()
}

// Tree is Linux's.
func Tree(root, place string, flat bool) (t archive.Tree, close func() error, err error) {
	return nil, nil, Possible()
}

// Open is Linux's.
func Open(root, place string) (f *os.File, mode uint32, err error) { return nil, 0, Possible() }
