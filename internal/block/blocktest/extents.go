package blocktest

import (
	"bytes"
	"testing"

	"cowl/internal/block"
)

// collect gathers extents up to the first error.
func collect(d block.Device, off, length int64) ([]block.Extent, error) {
	var es []block.Extent
	var failed error
	for e, err := range d.Extents(off, length) {
		if err != nil {
			failed = err
			continue // after an error nothing more may come
		}
		if failed != nil {
			e.Len = -1 // shows up as a bad extent
		}
		es = append(es, e)
	}
	return es, failed
}

// checkExtents checks that the extents of [off, off+length) cover it exactly
// and promise zeroes only where want, the whole device's content, is zero.
func checkExtents(t testing.TB, d block.Device, off, length int64, want []byte) {
	t.Helper()
	es, err := collect(d, off, length)
	if err != nil {
		t.Fatalf("Extents(%d, %d): %v", off, length, err)
	}
	at := off
	for _, e := range es {
		if e.Off != at || e.Len <= 0 || e.End() > off+length {
			t.Fatalf("Extents(%d, %d) yields %+v where one that begins at %d is due", off, length, e, at)
		}
		if e.Depth < 0 || e.Kind > block.Hole {
			t.Fatalf("Extents(%d, %d) yields %+v", off, length, e)
		}
		at = e.End()
		if e.Kind == block.Data {
			continue
		}
		if rest := bytes.TrimLeft(want[e.Off:e.End()], "\x00"); len(rest) > 0 {
			t.Fatalf("Extents(%d, %d) promises zeroes in %+v, but byte %d is %#x", off, length, e, e.End()-int64(len(rest)), rest[0])
		}
	}
	if at != off+length {
		t.Fatalf("Extents(%d, %d) ends at %d", off, length, at)
	}
}
