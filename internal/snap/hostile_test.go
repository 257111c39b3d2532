package snap

import (
	"testing"

	"cowl/internal/block/mem"
	"cowl/internal/format/dmsnap"
)

// FuzzStore opens arbitrary bytes as a COW device and uses it in every way.
// Errors are fine; panics, hangs and memory are not, and a store that opens
// holds only what the layout allows.
func FuzzStore(f *testing.F) {
	header := dmsnap.Header{Valid: true, ChunkBytes: 512}.Encode()
	area := make([]byte, 512)
	dmsnap.PutEntry(area, 0, dmsnap.Exception{Old: 3, New: 2})
	dmsnap.PutEntry(area, 1, dmsnap.Exception{Old: 4, New: 3})
	f.Add(append(header, area...))
	full := make([]byte, 512)
	for i := range 32 {
		dmsnap.PutEntry(full, i, dmsnap.Exception{Old: uint64(i), New: uint64(i + 2)})
	}
	f.Add(append(header, full...))
	dmsnap.PutEntry(full, 5, dmsnap.Exception{Old: 1 << 62, New: 1 << 63})
	f.Add(append(header, full...))
	f.Add(make([]byte, 4096))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 64<<10 {
			return
		}
		cow := mem.New(64 << 10)
		if _, err := cow.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		s, err := Open(cow, Options{ChunkBytes: 4096})
		if err != nil {
			return
		}
		for e := range s.index.all() {
			if !s.layout.IsData(e.New) || e.New >= s.chunks {
				t.Fatalf("exception %+v", e)
			}
		}
		o := NewOrigin(mem.New(32<<10), OriginOptions{})
		n, err := o.Attach(s, o.Size(), false)
		if err != nil {
			return
		}
		p := make([]byte, 32<<10)
		_, _ = n.ReadAt(p, 0)
		_, _ = o.WriteAt(p[:9000], 1000)
		_, _ = n.WriteAt(p[:9000], 7000)
		_, _ = n.ReadAt(p, 0)
		if o.StartMerge(s, o.Size()) != nil {
			return
		}
		for left, err := 1, error(nil); left > 0 && err == nil; {
			left, err = o.MergeStep()
		}
	})
}
