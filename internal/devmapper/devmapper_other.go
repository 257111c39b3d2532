//go:build !linux

package devmapper

import "cowl/internal/errs"

var errUnsupported = errs.E(errs.Unsupported, "only Linux has device-mapper")

// Control is the control device, on Linux.
type Control struct{}

// Open opens the control device, on Linux.
func Open() (*Control, error) { return nil, errUnsupported }

// Close closes it.
func (*Control) Close() error { return nil }

// Info describes a device.
func (*Control) Info(string) (Info, error) { return Info{}, errUnsupported }

// Status returns the lines of a device's table with their status.
func (*Control) Status(string) ([]Target, error) { return nil, errUnsupported }

// Table returns the lines of a device's table.
func (*Control) Table(string) ([]Target, error) { return nil, errUnsupported }

// Suspend makes a device's requests wait.
func (*Control) Suspend(string) error { return errUnsupported }

// Resume lets them go on.
func (*Control) Resume(string) error { return errUnsupported }

// List returns the devices whose UUID begins with prefix: none.
func List(string) ([]Info, error) { return nil, nil }
