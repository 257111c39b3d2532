//go:build unix

package cli

import (
	"bytes"
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cowl/internal/block"
	"cowl/internal/daemon"
	"cowl/internal/errs"
	"cowl/internal/forecast"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// lvContent is what scripts do with the content of a volume that a daemon
// serves, as any NBD client would:
//
//	lv write VG/LV WORD OFFSET COUNT    write the word COUNT times
//	lv check VG/LV WORD OFFSET COUNT    fail unless it is there COUNT times
//	lv hold VG/LV                       open it, and keep it open
//	lv release VG/LV                    close it again
//	lv learn VG/LV PAGES SECONDS        it was watched so long; each second wrote so many pages of its 100 MiB anew
type lvContent struct{ held map[string]block.Device }

func (c *lvContent) run(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: lv write|check|hold|release|learn VG/LV ...")
	}
	name := args[1]
	switch args[0] {
	case "hold":
		c.held[name] = open(ts, name)
	case "release":
		shut(ts, name, c.held[name])
		delete(c.held, name)
	case "learn":
		learn(ts, args)
	case "write", "check":
		c.transfer(ts, neg, args)
	default:
		ts.Fatalf("lv: no such thing as %s", args[0])
	}
}

func (c *lvContent) transfer(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 5 {
		ts.Fatalf("usage: lv %s VG/LV WORD OFFSET COUNT", args[0])
	}
	off, err := strconv.ParseInt(args[3], 10, 64)
	ts.Check(err)
	count, err := strconv.Atoi(args[4])
	ts.Check(err)
	want := bytes.Repeat([]byte(args[2]), count)
	dev := open(ts, args[1])
	defer shut(ts, args[1], dev)
	if args[0] == "write" {
		_, err := dev.WriteAt(want, off)
		if neg {
			if !errs.Is(err, errs.NoSpace) {
				ts.Fatalf("write to %s: %v, want that there is no space", args[1], err)
			}
			err = nil
		}
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

// learn keeps what a daemon that ran some time would have learnt.
func learn(ts *testscript.TestScript, args []string) {
	if len(args) != 4 {
		ts.Fatalf("usage: lv learn VG/LV PAGES SECONDS")
	}
	pages, err := strconv.ParseInt(args[2], 10, 64)
	ts.Check(err)
	seconds, err := strconv.ParseInt(args[3], 10, 64)
	ts.Check(err)
	var r forecast.Recorder
	for s := range seconds {
		for i := range pages {
			const all = 100 << 20 / 4096
			r.Touch((s*pages+i)*7919%all*4096, 4096)
		}
		r.Step()
	}
	host := manager.NewHost(manager.HostOptions{Getenv: ts.Getenv, StateDir: ts.Getenv("COWL_STATE_DIR")})
	inv, err := host.Scan(context.Background())
	ts.Check(err)
	vg, lv, _ := strings.Cut(args[1], "/")
	group := inv.Group(vg).Meta
	known := r.Pattern()
	known.Until = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	ts.Check(host.Learn(group, map[volume.UUID]*forecast.Pattern{group.LV(lv).ID: known}))
}

// shut closes a device and waits until the daemon has noticed.
func shut(ts *testscript.TestScript, name string, dev block.Device) {
	c, lv := connect(ts, name)
	before, err := c.Status(context.Background())
	ts.Check(err)
	ts.Check(dev.Close())
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		now, err := c.Status(context.Background())
		ts.Check(err)
		if now.LVs[lv].Opens < before.LVs[lv].Opens {
			return
		}
	}
	ts.Fatalf("%s is still open", name)
}

func connect(ts *testscript.TestScript, name string) (*daemon.Client, string) {
	vg, lv, _ := strings.Cut(name, "/")
	c, err := daemon.Connect(context.Background(), ts.Getenv("COWL_RUN_DIR"), vg)
	ts.Check(err)
	return c, lv
}

func open(ts *testscript.TestScript, name string) block.Device {
	c, lv := connect(ts, name)
	dev, err := c.Open(context.Background(), lv, false)
	ts.Check(err)
	return dev
}
