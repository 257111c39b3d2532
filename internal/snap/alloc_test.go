package snap

import (
	"bytes"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/mem"
)

// A request makes no garbage: not a read, not a write to chunks that are
// copied, and a first write less than one allocation for many requests (a
// commit makes some).
func TestRequestsAllocateNothing(t *testing.T) {
	const size = 64 << 20
	full := func(size int64) block.Device { // memory of its own for all of it
		dev := mem.New(size)
		if _, err := dev.WriteAt(bytes.Repeat([]byte{1}, int(size)), 0); err != nil {
			t.Fatal(err)
		}
		return dev
	}
	o := NewOrigin(full(size), OriginOptions{Manual: true})
	defer o.Close()
	cow := full(size + size/8)
	if err := Format(cow, 4096); err != nil {
		t.Fatal(err)
	}
	store, err := Open(cow, Options{ChunkBytes: 4096})
	if err != nil {
		t.Fatal(err)
	}
	s, err := o.Attach(store, size, false)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	at := int64(0)
	step := func(do func(p []byte, off int64) (int, error)) func() {
		return func() {
			at = (at + 5*4096) % size
			if _, err := do(buf, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	const writes = 6000                           // each to another chunk
	testing.AllocsPerRun(writes, step(o.WriteAt)) // makes the memory that is used again
	if err := o.Flush(); err != nil {
		t.Fatal(err)
	}
	first := testing.AllocsPerRun(writes, step(o.WriteAt))
	if err := o.Flush(); err != nil {
		t.Fatal(err)
	}
	if first > 0.2 {
		t.Errorf("%.2f allocations a first write", first)
	}
	for name, do := range map[string]func([]byte, int64) (int, error){
		"read of the origin": o.ReadAt, "write to copied chunks": o.WriteAt, "read of the snapshot": s.ReadAt,
	} {
		at = 0
		if n := testing.AllocsPerRun(2000, step(do)); n != 0 {
			t.Errorf("%.2f allocations a %s", n, name)
		}
	}
}
