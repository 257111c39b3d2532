package daemon

import (
	"log/slog"

	"cowl/internal/errs"
	"cowl/internal/export"
)

// files is a mounted directory of exports.
type files interface{ Unmount() error }

func mount(string, export.Exports, *slog.Logger) (files, error) {
	return nil, errs.E(errs.Unsupported, "FUSE is not available on this system")
}
