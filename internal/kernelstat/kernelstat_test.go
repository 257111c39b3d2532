package kernelstat

import (
	"slices"
	"strings"
	"testing"

	"cowl/internal/errs"
	"cowl/internal/forecast"
)

func TestAreaBytes(t *testing.T) {
	for _, c := range []struct {
		size int64
		cpus int
		want int64
	}{
		{512, 1, 4 << 10}, {64 << 20, 2, 4 << 10}, {1 << 30, 2, 32 << 10}, {1 << 40, 2, 32 << 20}, {1 << 40, 256, 2 << 30}, {1 << 30, 100000, 4 << 20},
	} {
		got := areaBytes(c.size, c.cpus)
		if got != c.want {
			t.Errorf("%d bytes, %d processors: %d, want %d", c.size, c.cpus, got, c.want)
		}
		if areas := (c.size + got - 1) / got; areas > leastAreas && areas*int64(areaMemory+areaPerCPU*c.cpus) > statsMemory {
			t.Errorf("%d bytes, %d processors: %d areas take too much memory", c.size, c.cpus, areas)
		}
	}
}

// The lines are written after Linux's documentation of dm statistics.
func TestParseAreas(t *testing.T) {
	const text = "0+8 0 0 0 0 3 0 24 5 0 5 5 0 5\n8+8 9 0 72 1 0 0 0 0 0 1 1 1 0\n16+1 0 0 0 0 1 0 1 0 0 0 0 0 0\n"
	got, err := parseAreas([]byte(text), 4096)
	want := []forecast.Area{{Writes: 3, Bytes: 24 * 512}, {}, {Writes: 1, Bytes: 512}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"0+8 0 0", "8+8 0 0 0 0 0 0 0 0", "x", "0+8 0 0 0 0 -1 0 0 0", "0+8 0 0 0 0 9999999999999999999 0 0 0", strings.Repeat("0", 100000)} {
		if _, err := parseAreas([]byte(bad), 4096); err == nil {
			t.Errorf("%.40q is taken for statistics", bad)
		}
	}
}

func TestParseDiskstats(t *testing.T) {
	const text = ` 254       0 vda 9 1 2 3 10 2 80 4 0 1 1 2 0 8 0 0 0
 253       0 dm-0 1 0 8 0 7 0 56 1 0 0 1 0 0 0 0 0 0
 253       1 dm-1 1 0 8 0 7 0 56 1 0 0 1 3 0 16 0 0 0
 253       2 dm-2 1 0 8 0 7 0 56 1 0 0 1
`
	for dev, want := range map[string]forecast.Area{
		"253:0": {Writes: 7, Bytes: 56 * 512}, "253:1": {Writes: 10, Bytes: 72 * 512}, "253:2": {Writes: 7, Bytes: 56 * 512},
	} {
		if got, err := parseDiskstats([]byte(text), dev); err != nil || got != want {
			t.Errorf("%s: %v, %v", dev, got, err)
		}
	}
	if _, err := parseDiskstats([]byte(text), "253:9"); !errs.Is(err, errs.NotFound) {
		t.Errorf("a device that is not there: %v", err)
	}
}

// What comes from elsewhere is an error or areas, in order.
func FuzzAreas(f *testing.F) {
	f.Add([]byte("0+8 0 0 0 0 3 0 24 5 0 5 5 0 5\n8+8 9 0 72 1 0 0 0 0 0 1 1 1 0\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		areas, err := parseAreas(b, 4096)
		if err != nil {
			return
		}
		a := forecast.NewAreas(4096, 4096*int64(max(1, len(areas))), forecast.Slot, nil)
		a.Step(areas)
		if err := a.Pattern().Validate(); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
	})
}
