package mem

import "testing"

// A test that clones after every write must not get slower and slower.
func TestLayersDoNotPileUp(t *testing.T) {
	d := New(1 << 20)
	for i := range int64(100) {
		if _, err := d.WriteAt([]byte{byte(i + 1)}, i*pageSize); err != nil {
			t.Fatal(err)
		}
		d = d.Clone()
		if d.top.depth > maxDepth+1 {
			t.Fatalf("%d layers after %d clones", d.top.depth, i+1)
		}
	}
	idle := d.top.depth
	for range 100 {
		d = d.Clone()
	}
	if d.top.depth > idle {
		t.Errorf("clones without writes took the layers from %d to %d", idle, d.top.depth)
	}
	var p [1]byte
	for i := range int64(100) {
		if _, err := d.ReadAt(p[:], i*pageSize); err != nil || p[0] != byte(i+1) {
			t.Errorf("page %d reads %d, %v", i, p[0], err)
		}
	}
}
