//go:build !linux

package backup

import (
	"context"
	"io"

	"cowl/internal/archive"
)

// canMount says why a file system cannot be mounted here.
func canMount() error {
	return errNoTar("the volume holds no ext2, ext3 or ext4, and cowl mounts others on Linux only")
}

// archiveMounted is never reached: canMount comes first.
func archiveMounted(context.Context, io.Writer, string, bool, func(string)) (archive.Stats, error) {
	return archive.Stats{}, canMount()
}

// mountTree is Linux's.
func mountTree(string, bool) (root string, release func() error, err error) {
	return "", nil, canMount()
}
