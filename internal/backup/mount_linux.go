package backup

import (
	"context"
	"errors"
	"io"

	"cowl/internal/archive"
	"cowl/internal/errs"
	"cowl/internal/kernelfs"
)

// archiveMounted mounts the image at path and writes its tree to w.
func archiveMounted(ctx context.Context, w io.Writer, path string, readOnly bool, note func(string)) (stats archive.Stats, err error) {
	root, release, err := kernelfs.Mount(path, readOnly)
	if err != nil {
		if errs.Is(err, errs.Unsupported) {
			err = errNoTar(err.Error())
		}
		return stats, err
	}
	defer func() { err = errors.Join(err, release()) }()
	return archive.Write(ctx, w, archive.Dir{Root: root}, archive.Options{Note: note})
}
