//go:build !linux

package fuse

import (
	"context"
	"runtime"

	"cowl/internal/errs"
	"cowl/internal/export"
)

// Mount is a directory of exports.
type Mount struct{}

// Serve is errs.Unsupported on this system.
func Serve(path string, exports export.Exports) (*Mount, error) {
	return nil, errs.E(errs.Unsupported, "mount %s: FUSE is not supported on %s", path, runtime.GOOS)
}

// Refresh does nothing here.
func (m *Mount) Refresh() {}

// Close does nothing here.
func (m *Mount) Close(context.Context) error { return nil }
