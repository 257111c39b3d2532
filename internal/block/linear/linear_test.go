package linear_test

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/filter/fault"
	"cowl/internal/block/filter/readonly"
	"cowl/internal/block/linear"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
)

func must(t testing.TB, d *linear.Device, err error) *linear.Device {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// guarded returns a device with a part in its middle that the test may use; at
// the end of the test the rest must be what it was.
func guarded(t *testing.T, before, length, after int64) *mem.Device {
	d := mem.New(before + length + after)
	guard := bytes.Repeat([]byte{0x5a}, int(max(before, after)))
	for off, n := range map[int64]int64{0: before, before + length: after} {
		if _, err := d.WriteAt(guard[:n], off); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		b := blocktest.ReadAll(t, d)
		if !bytes.Equal(b[:before], guard[:before]) || !bytes.Equal(b[before+length:], guard[:after]) {
			t.Error("bytes around the mapped part were changed")
		}
	})
	return d
}

func TestSection(t *testing.T) {
	blocktest.Run(t, func(t *testing.T, size int64) block.Device {
		d, err := linear.Section(guarded(t, 5000, size, 777), 5000, size)
		return must(t, d, err)
	}, blocktest.Options{Zeroed: true})
}

// Parts of uneven sizes, two of them on one device and in the reverse order.
func TestConcatenation(t *testing.T) {
	blocktest.Run(t, func(t *testing.T, size int64) block.Device {
		a, b, c := size/5, size/2, size-size/5-size/2
		one, two := guarded(t, 4096, a+c, 100), guarded(t, 300, b, 1)
		var targets []linear.Target
		at := int64(0)
		add := func(n int64, dev block.Device, off int64) {
			if n > 0 {
				targets = append(targets, linear.Target{Off: at, Len: n, Dev: dev, DevOff: off})
				at += n
			}
		}
		add(a, one, 4096+c)
		add(b, two, 300)
		add(c, one, 4096)
		d, err := linear.New(targets)
		return must(t, d, err)
	}, blocktest.Options{Zeroed: true})
}

func TestStripe(t *testing.T) {
	for _, c := range []struct {
		areas, chunk int64
	}{{1, 512}, {2, 4096}, {3, 512}, {5, 1000}} {
		unit := c.areas * c.chunk
		blocktest.Run(t, func(t *testing.T, size int64) block.Device {
			var areas []linear.Area
			for i := range c.areas {
				areas = append(areas, linear.Area{Dev: guarded(t, 100*i, size/c.areas, 64), DevOff: 100 * i})
			}
			d, err := linear.Stripe(areas, c.chunk, size)
			return must(t, d, err)
		}, blocktest.Options{Zeroed: true, Sizes: []int64{unit, 7 * unit, (64 << 10) / unit * unit}, Steps: 500})
	}
}

// The order is dm-stripe's; the model test would be content with any.
func TestStripeOrder(t *testing.T) {
	a, b := mem.New(100+4), mem.New(4)
	for dev, content := range map[*mem.Device]string{a: "aAcC", b: "bBdD"} {
		if _, err := dev.WriteAt([]byte(content), dev.Size()-4); err != nil {
			t.Fatal(err)
		}
	}
	s, err := linear.Stripe([]linear.Area{{Dev: a, DevOff: 100}, {Dev: b}}, 2, 8)
	if got := blocktest.ReadAll(t, must(t, s, err)); string(got) != "aAbBcCdD" {
		t.Errorf("striped device reads %q", got)
	}
}

// Parts must name the bytes that WriteAt would write.
func TestParts(t *testing.T) {
	a, b := mem.New(5000), mem.New(5000)
	striped, err := linear.Stripe([]linear.Area{{Dev: a, DevOff: 100}, {Dev: b}}, 512, 2048)
	must(t, striped, err)
	d, err := linear.New([]linear.Target{{Len: 1000, Dev: b, DevOff: 3000}, {Off: 1000, Len: 2048, Dev: striped}})
	must(t, d, err)
	var got []linear.Part
	for p := range d.Parts(900, 700) {
		got = append(got, p)
	}
	if want := []linear.Part{{Dev: b, Off: 3900, Len: 100}, {Dev: striped, Off: 0, Len: 600}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	got = slices.Collect(striped.Parts(500, 600))
	if want := []linear.Part{{Dev: a, Off: 600, Len: 12}, {Dev: b, Off: 0, Len: 512}, {Dev: a, Off: 612, Len: 76}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for range d.Parts(0, d.Size()) {
		break
	}
}

func TestRefuses(t *testing.T) {
	d := mem.New(100)
	type ts = []linear.Target
	for name, targets := range map[string]ts{
		"gap":               {{Off: 0, Len: 10, Dev: d}, {Off: 11, Len: 10, Dev: d}},
		"overlap":           {{Off: 0, Len: 10, Dev: d}, {Off: 9, Len: 10, Dev: d}},
		"wrong start":       {{Off: 1, Len: 10, Dev: d}},
		"empty":             {{Off: 0, Len: 0, Dev: d}},
		"negative":          {{Off: 0, Len: -5, Dev: d}},
		"behind the end":    {{Off: 0, Len: 10, Dev: d, DevOff: 91}},
		"before the start":  {{Off: 0, Len: 10, Dev: d, DevOff: -1}},
		"overflow":          {{Off: 0, Len: math.MaxInt64, Dev: d, DevOff: 1}},
		"larger than int64": {{Off: 0, Len: math.MaxInt64, Dev: mem.New(math.MaxInt64)}, {Off: math.MaxInt64, Len: 1, Dev: d}},
	} {
		if _, err := linear.New(targets); !errs.Is(err, errs.Usage) {
			t.Errorf("%s: %v, want errs.Usage", name, err)
		}
	}
	if _, err := linear.Section(d, 50, 51); !errs.Is(err, errs.Usage) {
		t.Errorf("section behind the end: %v", err)
	}
	area := linear.Area{Dev: d}
	for name, c := range map[string]struct {
		areas       []linear.Area
		chunk, size int64
	}{
		"no areas":       {nil, 10, 100},
		"no chunk":       {[]linear.Area{area}, 0, 100},
		"uneven":         {[]linear.Area{area, area}, 10, 30},
		"behind the end": {[]linear.Area{area, {Dev: d, DevOff: 60}}, 10, 100},
		"huge chunk":     {[]linear.Area{area, area}, math.MaxInt64, 0},
		"negative":       {[]linear.Area{area}, 10, -100},
	} {
		if _, err := linear.Stripe(c.areas, c.chunk, c.size); !errs.Is(err, errs.Usage) {
			t.Errorf("stripe, %s: %v, want errs.Usage", name, err)
		}
	}
}

func TestEmpty(t *testing.T) {
	none, err := linear.New(nil)
	section, err2 := linear.Section(mem.New(10), 10, 0)
	for _, d := range []*linear.Device{must(t, none, err), must(t, section, err2)} {
		if n, err := d.ReadAt(nil, 0); n != 0 || err != nil || d.Size() != 0 || d.Flush() != nil {
			t.Errorf("device of no bytes: %d, %v, size %d", n, err, d.Size())
		}
		for e := range d.Extents(0, 0) {
			t.Errorf("extent %v in a device of no bytes", e)
		}
	}
}

// One target that cannot be written makes the whole read-only: a request that
// spans two targets must not write half.
func TestReadOnlyTarget(t *testing.T) {
	content := bytes.Repeat([]byte{9}, 1000)
	a, b := mem.New(500), mem.New(500)
	for _, d := range []*mem.Device{a, b} {
		if _, err := d.WriteAt(content[:500], 0); err != nil {
			t.Fatal(err)
		}
	}
	d, err := linear.New([]linear.Target{{Len: 500, Dev: a}, {Off: 500, Len: 500, Dev: readonly.New(b)}})
	blocktest.RunReadOnly(t, must(t, d, err), content)
}

// A flush that fails at one device must still reach the others, be called once
// for each, and be reported.
func TestFlushReachesAll(t *testing.T) {
	broken := errors.New("broken")
	script := fault.New(fault.Rule{Device: "a", Ops: fault.Flush, Err: broken})
	a, b := script.Wrap("a", mem.New(100)), script.Wrap("b", mem.New(100))
	d, err := linear.New([]linear.Target{
		{Off: 0, Len: 10, Dev: a}, {Off: 10, Len: 10, Dev: b}, {Off: 20, Len: 10, Dev: a, DevOff: 50},
	})
	if err := must(t, d, err).Flush(); !errors.Is(err, broken) {
		t.Errorf("Flush() = %v", err)
	}
	if script.Fired() != 1 || script.Calls() != 2 {
		t.Errorf("%d faults, %d flushes; want 1 and 2", script.Fired(), script.Calls())
	}
}

// An error in the middle tells how far it came.
func TestPartialRequests(t *testing.T) {
	broken := errors.New("broken")
	script := fault.New(fault.Rule{Device: "b", Always: true, Err: broken})
	a, b := script.Wrap("a", mem.New(100)), script.Wrap("b", mem.New(100))
	x, err := linear.New([]linear.Target{{Len: 100, Dev: a}, {Off: 100, Len: 100, Dev: b}})
	d := must(t, x, err)
	if n, err := d.WriteAt(make([]byte, 150), 0); n != 100 || !errors.Is(err, broken) {
		t.Errorf("WriteAt = %d, %v", n, err)
	}
	if n, err := d.ReadAt(make([]byte, 50), 60); n != 40 || !errors.Is(err, broken) {
		t.Errorf("ReadAt = %d, %v", n, err)
	}
	if err := d.Discard(0, 150); !errors.Is(err, broken) {
		t.Errorf("Discard = %v", err)
	}
	for e, err := range d.Extents(0, 200) {
		if err == nil && e.End() > 100 {
			t.Errorf("extent %v of a broken device", e)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	disk := mem.New(1 << 20)
	s, err := linear.Section(disk, 4096, 1<<19)
	section := must(t, s, err)
	l, err := linear.New([]linear.Target{{Len: 6000, Dev: section}, {Off: 6000, Len: 6000, Dev: disk}, {Off: 12000, Len: 6000, Dev: disk}})
	many := must(t, l, err)
	z, err := linear.Stripe([]linear.Area{{Dev: disk}, {Dev: section}}, 1024, 65536)
	striped := must(t, z, err)
	p := make([]byte, 4096)
	for name, d := range map[string]block.Device{"section": section, "linear": many, "striped": striped} {
		if n := testing.AllocsPerRun(100, func() {
			_, _ = d.WriteAt(p, 5000)
			_, _ = d.ReadAt(p, 5000)
		}); n != 0 {
			t.Errorf("%s: %v allocations per write and read", name, n)
		}
	}
}

func BenchmarkConcatenation(b *testing.B) {
	disk := mem.New(64 << 20)
	var targets []linear.Target
	for i := range int64(16) {
		targets = append(targets, linear.Target{Off: i << 22, Len: 1 << 22, Dev: disk, DevOff: i << 22})
	}
	d, err := linear.New(targets)
	if err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 4096)
	b.SetBytes(4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.ReadAt(p, 9<<22-100); err != nil {
			b.Fatal(err)
		}
	}
}
