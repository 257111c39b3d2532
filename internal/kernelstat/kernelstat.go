// Package kernelstat counts how often the areas of a volume are written to that
// the kernel's device-mapper runs: by dm statistics, which count each area of
// it, and where those cannot be had by the totals in /proc/diskstats. What the
// counts mean is package forecast's.
//
// It needs Linux, and root for dm statistics; elsewhere it says errs.Unsupported.
package kernelstat

import (
	"bufio"
	"bytes"
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"cowl/internal/errs"
	"cowl/internal/forecast"
)

// Device is a device-mapper device.
type Device struct {
	Name string // as dmsetup has it: vg-lv, hyphens doubled
	UUID string
	Node string // in /sys/block: dm-3
	Dev  string // "major:minor"
	Size int64  // bytes
}

// statsMemory is about how much of the kernel's memory the counters of a device
// may take, bytes. Each area takes some for itself and for each processor.
const (
	statsMemory  = 16 << 20
	areaMemory   = 136
	areaPerCPU   = 104
	leastAreas   = 256
	smallestArea = 4 << 10
)

// areaBytes returns how large areas have to be for their counters to fit.
func areaBytes(size int64, cpus int) int64 {
	areas := max(leastAreas, statsMemory/int64(areaMemory+areaPerCPU*cpus))
	n := (size + areas - 1) / areas
	if n <= smallestArea {
		return smallestArea
	}
	return 1 << bits.Len64(uint64(n-1))
}

// parseAreas reads what @stats_print answers, a line an area:
//
//	0+1024 reads merged sectors ms writes merged sectors ms ...
func parseAreas(text []byte, area int64) ([]forecast.Area, error) {
	var out []forecast.Area
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) == 0 {
			continue
		}
		start, _, ok := strings.Cut(f[0], "+")
		sector, err := strconv.ParseInt(start, 10, 64)
		if !ok || err != nil || len(f) < 8 || sector != int64(len(out))*(area/512) {
			return nil, errs.E(errs.Corrupt, "dm statistics: line %q is not area %d", lines.Text(), len(out))
		}
		a, err := parseCounts(f[5], f[7])
		if err != nil {
			return nil, fmt.Errorf("dm statistics: area %d: %w", len(out), err)
		}
		out = append(out, a)
	}
	return out, lines.Err()
}

// parseDiskstats reads the line of a device in /proc/diskstats: writes and
// discards, since both make a snapshot copy.
func parseDiskstats(text []byte, dev string) (forecast.Area, error) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 14 || f[0]+":"+f[1] != dev {
			continue
		}
		a, err := parseCounts(f[7], f[9])
		if err == nil && len(f) >= 18 { // Linux 4.18
			var d forecast.Area
			d, err = parseCounts(f[14], f[16])
			a.Writes, a.Bytes = a.Writes+d.Writes, a.Bytes+d.Bytes
		}
		if err != nil {
			return a, fmt.Errorf("/proc/diskstats: device %s: %w", dev, err)
		}
		return a, nil
	}
	return forecast.Area{}, errs.E(errs.NotFound, "/proc/diskstats has no device %s", dev)
}

// parseCounts reads a number of writes and of sectors.
func parseCounts(writes, sectors string) (forecast.Area, error) {
	const most = 1 << 50
	n, err := strconv.ParseInt(writes, 10, 64)
	if err != nil || n < 0 || n > most {
		return forecast.Area{}, errs.E(errs.Corrupt, "%q is no number of writes", writes)
	}
	s, err := strconv.ParseInt(sectors, 10, 64)
	if err != nil || s < 0 || s > most {
		return forecast.Area{}, errs.E(errs.Corrupt, "%q is no number of sectors", sectors)
	}
	return forecast.Area{Writes: n, Bytes: s * 512}, nil
}
