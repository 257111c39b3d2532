package snap

import (
	"bytes"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/format/dmsnap"
)

// A power cut in the middle of an area write may leave entries behind a gap.
// Nobody sees them, until the gap is filled: then a chunk of the origin would
// show what another one held. So they are off the disk once the store is open,
// for cowl and for a kernel that goes on with it.
func TestEntriesBehindTheEndNeverCount(t *testing.T) {
	const chunk, size = 4096, 64 * 4096
	for name, ghost := range map[string]dmsnap.Exception{
		"of a chunk that is to be copied": {Old: 9, New: 2},
		"of one that is copied already":   {Old: 1, New: 5},
		"no possible entry":               {Old: 1 << 60, New: 1 << 60},
	} {
		t.Run(name, func(t *testing.T) {
			disk, cow := mem.New(size), mem.New(2*size)
			disk.WriteAt(bytes.Repeat([]byte{1}, size), 0)
			o := NewOrigin(disk, OriginOptions{Manual: true})
			n := attach(t, o, openStore(t, cow, chunk))
			for i := range int64(2) {
				o.WriteAt(bytes.Repeat([]byte{2}, chunk), i*chunk)
				o.Flush()
			}
			if got := n.Store().Count(); got != 2 {
				t.Fatalf("%d exceptions", got)
			}
			o.Close()
			area := make([]byte, chunk)
			cow.ReadAt(area, chunk)
			dmsnap.PutEntry(area, 3, ghost) // entry 2 is the gap
			cow.WriteAt(area, chunk)

			if _, err := Open(cow, Options{ReadOnly: true}); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(at(t, cow, chunk, chunk), area) {
				t.Error("a store that is only read was changed")
			}
			s, err := Open(cow, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if tail := at(t, cow, chunk+2*dmsnap.EntrySize, chunk-2*dmsnap.EntrySize); !bytes.Equal(tail, make([]byte, len(tail))) {
				t.Error("the entry is still on the disk")
			}
			o = NewOrigin(disk, OriginOptions{Manual: true})
			attach(t, o, s)
			o.WriteAt(bytes.Repeat([]byte{2}, chunk), 2*chunk) // fills the gap
			o.Flush()
			o.Close()
			if s, err = Open(cow, Options{}); err != nil {
				t.Fatal(err)
			}
			if s.Count() != 3 {
				t.Errorf("%d exceptions, and 3 chunks were copied", s.Count())
			}
			n = attach(t, NewOrigin(disk, OriginOptions{Manual: true}), s)
			if !bytes.Equal(at(t, n, 0, size), bytes.Repeat([]byte{1}, size)) {
				t.Error("the snapshot does not show its instant")
			}
		})
	}
}

// at returns n bytes of a device.
func at(t *testing.T, d block.Device, off int64, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := d.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	return b
}
