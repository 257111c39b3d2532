package snap

import "testing"

// A request that needs no copy must not leave work to the garbage collector.
func TestRequestsDoNotAllocate(t *testing.T) {
	o, n := excepted(t, 100_000, scatter)
	p := make([]byte, 3*benchChunk)
	copied, fresh := int64(scatter(70_000))*benchChunk, 8*terabyte
	for name, f := range map[string]func() error{
		"read the origin": func() error {
			_, err := o.ReadAt(p, copied)
			return err
		},
		"write a chunk of the origin that is copied": func() error {
			_, err := o.WriteAt(p[:512], copied)
			return err
		},
		"read the snapshot, from the origin": func() error {
			_, err := n.ReadAt(p, fresh)
			return err
		},
		"read the snapshot, from both": func() error {
			_, err := n.ReadAt(p, copied-benchChunk)
			return err
		},
		"write a chunk of the snapshot that is copied": func() error {
			_, err := n.WriteAt(p[:512], copied)
			return err
		},
	} {
		if allocs := testing.AllocsPerRun(200, func() {
			if err := f(); err != nil {
				t.Fatal(err)
			}
		}); allocs > 0 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
	if n.Store().Count() != 100_000 {
		t.Errorf("%d chunks have been copied in the course of it", n.Store().Count()-100_000)
	}
}
