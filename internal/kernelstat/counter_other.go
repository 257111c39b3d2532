//go:build !linux

package kernelstat

import (
	"context"

	"cowl/internal/errs"
	"cowl/internal/forecast"
)

// Find returns the device-mapper device of that name. This system has none.
func Find(name string) (*Device, error) {
	return nil, errs.E(errs.NotFound, "the kernel has no device %s", name)
}

// Counter counts the writes to a device, on Linux.
type Counter struct{}

var errUnsupported = errs.E(errs.Unsupported, "only Linux has device-mapper")

// Count begins to count, on Linux.
func Count(context.Context, *Device) (*Counter, error) { return nil, errUnsupported }

// AreaBytes returns the size of the areas that are counted.
func (*Counter) AreaBytes() int64 { return 0 }

// TotalsOnly returns why there are totals only.
func (*Counter) TotalsOnly() error { return errUnsupported }

// Read returns the writes since the last Read.
func (*Counter) Read(context.Context) ([]forecast.Area, error) { return nil, errUnsupported }

// Close ends the counting.
func (*Counter) Close(context.Context) error { return nil }
