//go:build !linux

package freeze

import (
	"context"
	"time"

	"cowl/internal/errs"
)

// Guard reports whether these are a guard's arguments. Only Linux has guards.
func Guard([]string) bool { return false }

// Mounts returns the file systems that are mounted from the devices. Only Linux
// tells.
func Mounts(...Device) ([]Mount, error) { return nil, nil }

// Hold is what is being held, on Linux.
type Hold struct{}

// New freezes what the plan names, on Linux.
func New(context.Context, Plan) (*Hold, error) {
	return nil, errs.E(errs.Unsupported, "only Linux can freeze file systems from outside")
}

// For returns for how long things have been held.
func (*Hold) For() time.Duration { return 0 }

// Release lets everything go.
func (*Hold) Release() error { return nil }
