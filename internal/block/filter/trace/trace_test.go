package trace_test

import (
	"errors"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/filter/fault"
	"cowl/internal/block/filter/trace"
	"cowl/internal/block/mem"
)

func TestConformance(t *testing.T) {
	blocktest.Run(t, func(t *testing.T, size int64) block.Device {
		return new(trace.Log).Wrap("d", mem.New(size))
	}, blocktest.Options{Zeroed: true, Steps: 300})
}

func TestLines(t *testing.T) {
	log := &trace.Log{Reads: true}
	script := fault.New(fault.Rule{Ops: fault.Write, Nth: 3, Err: errors.New("broken")}, fault.Rule{Ops: fault.Flush, Nth: 2})
	a, b := log.Wrap("origin", script.Wrap("", mem.New(1<<20))), log.Wrap("cow", mem.New(1<<20))
	p := make([]byte, 4096)

	log.Note("# start")
	_, _ = a.ReadAt(p, 8192)
	_, _ = b.WriteAt(p[:512], 512)
	_, _ = a.WriteAt(nil, 0)
	_, _ = a.WriteAt(p, 0)
	_ = b.Flush()
	_ = a.Discard(0, 100)
	_ = b.WriteZeroes(4096, 8192)
	_, _ = a.WriteAt(p, 1<<20)
	for range b.Extents(0, 100) {
		continue
	}
	_ = a.Flush()
	_ = a.Flush()

	want := `# start
read origin 8192+4096
write cow 512+512
write origin 0+4096
flush cow
discard origin 0+100
zero cow 4096+8192
write origin 1048576+4096: broken
flush origin
flush origin: injected fault
`
	if got := log.Take(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := log.Take(); got != "" {
		t.Errorf("taken twice: %s", got)
	}
	if script.Fired() != 2 {
		t.Errorf("%d faults fired, want 2", script.Fired())
	}
}

func TestReadsAreOptional(t *testing.T) {
	log := new(trace.Log)
	d := log.Wrap("d", mem.New(10))
	_, _ = d.ReadAt(make([]byte, 5), 0)
	if got := log.Take(); got != "" {
		t.Errorf("got %q", got)
	}
}
