//go:build unix

package cli

import (
	"bytes"
	"context"
	"path/filepath"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cowl/internal/block"
	"cowl/internal/export/nbd"
)

// overlayContent is what scripts do with an overlay that is served:
//
//	overlay write NAME WORD OFFSET COUNT    write the word COUNT times
//	overlay check NAME WORD OFFSET COUNT    fail unless it is there COUNT times
func overlayContent(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 5 {
		ts.Fatalf("usage: overlay write|check NAME WORD OFFSET COUNT")
	}
	off, err := strconv.ParseInt(args[3], 10, 64)
	ts.Check(err)
	count, err := strconv.Atoi(args[4])
	ts.Check(err)
	want := bytes.Repeat([]byte(args[2]), count)
	dev := dialOverlay(ts, args[1])
	defer dev.Close()
	if args[0] == "write" {
		_, err := dev.WriteAt(want, off)
		ts.Check(err)
		ts.Check(dev.Flush())
		return
	}
	got := make([]byte, len(want))
	_, err = dev.ReadAt(got, off)
	ts.Check(err)
	if bytes.Equal(got, want) == neg {
		ts.Fatalf("%s at %d: %.40q (want that: %v)", args[1], off, got, !neg)
	}
}

// dialOverlay waits until the server is up.
func dialOverlay(ts *testscript.TestScript, name string) block.Device {
	socket := filepath.Join(ts.Getenv("COWL_RUN_DIR"), "overlay~"+name+".nbd")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		dev, err := nbd.Dial(context.Background(), "unix", socket, name)
		if err == nil {
			return dev
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s: %v", socket, err)
		}
	}
}
