package snap

import (
	"testing"

	"cowl/internal/block/mem"
)

// A request makes no garbage: not a read, not a write to chunks that are
// copied, and a first write less than one allocation for many requests (a
// commit makes some).
func TestRequestsAllocateNothing(t *testing.T) {
	const size = 64 << 20
	o := NewOrigin(mem.New(size), OriginOptions{Manual: true})
	defer o.Close()
	cow := mem.New(2 * size)
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
	first := testing.AllocsPerRun(12000, step(o.WriteAt)) // 3/4 of all chunks, once each
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
