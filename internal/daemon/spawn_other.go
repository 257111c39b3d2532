//go:build !unix

package daemon

import (
	"context"

	"cowl/internal/errs"
	"cowl/internal/manager"
)

// Spawn cannot detach a process here.
func Spawn(context.Context, string, string, []string) (*Client, *manager.Result, error) {
	return nil, nil, errs.WithHint(errs.E(errs.Unsupported, "a daemon cannot be started in the background on this system"),
		"run cowl serve in a window of its own")
}
