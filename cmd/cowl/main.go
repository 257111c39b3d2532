// Command cowl runs LVM2 volume groups in user space; see package cli.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"cowl/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := cli.Main(ctx, cli.System(), os.Args[1:])
	stop()
	os.Exit(code)
}
