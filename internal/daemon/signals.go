package daemon

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// Signals returns a context that ends with the first SIGINT, SIGTERM or
// SIGHUP. Further ones change nothing until stop is called, which belongs
// behind Serve: an impatient second signal does not skip the flush.
func Signals(ctx context.Context) (_ context.Context, stop context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
}
