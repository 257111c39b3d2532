package kernelstat

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"cowl/internal/errs"
	"cowl/internal/forecast"
)

// Find returns the device-mapper device of that name; errs.NotFound if the
// kernel has none.
func Find(name string) (*Device, error) { return findIn("/sys/block", name) }

func findIn(sys, name string) (*Device, error) {
	nodes, err := filepath.Glob(sys + "/dm-*")
	if err != nil {
		return nil, err
	}
	for _, dir := range nodes {
		if read(dir+"/dm/name") != name {
			continue
		}
		sectors, err := strconv.ParseInt(read(dir+"/size"), 10, 64)
		if err != nil || sectors < 0 || sectors > 1<<53 {
			return nil, errs.E(errs.Corrupt, "%s/size is no size", dir)
		}
		return &Device{
			Name: name, UUID: read(dir + "/dm/uuid"), Node: filepath.Base(dir), Dev: read(dir + "/dev"), Size: sectors * 512,
		}, nil
	}
	return nil, errs.E(errs.NotFound, "the kernel has no device %s", name)
}

// read returns a line of sysfs, "" if it is not there.
func read(path string) string {
	text, _ := os.ReadFile(path)
	return strings.TrimSpace(string(text))
}

// Counter counts the writes to a device. It is not safe for parallel use.
type Counter struct {
	dev    *Device
	area   int64
	region string        // of dm statistics; "" if there are totals only
	total  forecast.Area // at the last Read, of totals
	why    error
}

// Count begins to count the writes to a device. Close has to follow: dm
// statistics go on, and take memory of the kernel, until then.
func Count(ctx context.Context, dev *Device) (*Counter, error) {
	c := &Counter{dev: dev, area: areaBytes(dev.Size, runtime.NumCPU())}
	region, err := c.message(ctx, "@stats_create", "-", strconv.FormatInt(c.area/512, 10), "cowl")
	if err == nil {
		c.region = strings.TrimSpace(string(region))
		_, err = strconv.ParseUint(c.region, 10, 31)
	}
	if err == nil {
		return c, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	c.region, c.area, c.why = "", max(1, dev.Size), err
	if c.total, err = c.readTotal(); err != nil {
		return nil, fmt.Errorf("%w; and %w", c.why, err)
	}
	return c, nil
}

// AreaBytes returns the size of the areas that are counted; the device's if
// there are totals only.
func (c *Counter) AreaBytes() int64 { return c.area }

// TotalsOnly returns why dm statistics cannot be had, nil if they can.
func (c *Counter) TotalsOnly() error { return c.why }

// Read returns the writes since the last Read, or since the beginning, by
// area.
func (c *Counter) Read(ctx context.Context) ([]forecast.Area, error) {
	if c.region == "" {
		now, err := c.readTotal()
		if err != nil {
			return nil, err
		}
		since := forecast.Area{Writes: max(0, now.Writes-c.total.Writes), Bytes: max(0, now.Bytes-c.total.Bytes)}
		c.total = now
		return []forecast.Area{since}, nil
	}
	text, err := c.message(ctx, "@stats_print_clear", c.region)
	if err != nil {
		return nil, err
	}
	areas, err := parseAreas(text, c.area)
	if want := (c.dev.Size + c.area - 1) / c.area; err == nil && int64(len(areas)) != want {
		err = errs.E(errs.Corrupt, "dm statistics of %s: %d areas, want %d", c.dev.Name, len(areas), want)
	}
	return areas, err
}

// Close ends the counting.
func (c *Counter) Close(ctx context.Context) error {
	if c.region == "" {
		return nil
	}
	_, err := c.message(ctx, "@stats_delete", c.region)
	return err
}

func (c *Counter) readTotal() (forecast.Area, error) {
	text, err := os.ReadFile("/proc/diskstats")
	if err != nil {
		return forecast.Area{}, err
	}
	return parseDiskstats(text, c.dev.Dev)
}

// message sends a message to the device and returns the answer.
func (c *Counter) message(ctx context.Context, words ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "dmsetup", append([]string{"message", c.dev.Name, "0"}, words...)...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return nil, errs.E(errs.Other, "dmsetup message %s 0 %s: %w: %s", c.dev.Name, words[0], err, bytes.TrimSpace(complaint.Bytes()))
	}
	return out, nil
}
