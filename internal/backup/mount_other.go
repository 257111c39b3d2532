//go:build !linux

package backup

import (
	"context"
	"io"

	"cowl/internal/errs"
)

// treeStats is what was put into an archive.
type treeStats struct {
	Entries int64 `json:"entries"`
	Skipped int64 `json:"sockets_skipped"`
}

// canMount says why a file system cannot be mounted here.
func canMount() error {
	return errs.WithHint(errs.E(errs.Unsupported, "format tar: reading a file system mounts it, which cowl does on Linux only"),
		"Use --format raw, which backs up any volume as it is. A file-system reader that needs no mount is to come.")
}

// archive is never reached: canMount comes first.
func archive(context.Context, io.Writer, string, bool, func(string)) (treeStats, error) {
	return treeStats{}, canMount()
}
