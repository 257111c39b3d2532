package snap

import (
	"bytes"
	"testing"

	"cowl/internal/block/crash"
)

// A process that is killed leaves in the cache what it had not flushed, and the
// next one reads it there. If it took that for durable, it would write the origin
// without a copy, and a power cut that takes the cache would leave a snapshot
// that is valid and wrong.
func TestNothingReliesOnWhatAKilledProcessLeftInTheCache(t *testing.T) {
	const chunk, size = 4096, 8 * 4096
	w := crash.NewWorld()
	disk, cow := w.NewDisk("origin", size), w.NewDisk("cow", 4*size)
	disk.WriteAt(bytes.Repeat([]byte{1}, size), 0)
	disk.Flush()
	o := NewOrigin(disk, OriginOptions{Manual: true})
	attach(t, o, openStore(t, cow, chunk))
	exception := make([]byte, chunk)
	{ // a commit of chunk 0, killed before its last flush
		cow.WriteAt(bytes.Repeat([]byte{1}, chunk), 2*chunk)
		cow.Flush()
		exception[8] = 2 // chunk 0 is kept in chunk 2
		cow.WriteAt(exception, chunk)
	}
	s, err := Open(cow, Options{})
	if err != nil || s.Count() != 1 {
		t.Fatal(err)
	}
	o = NewOrigin(disk, OriginOptions{Manual: true})
	attach(t, o, s)
	if _, err := o.WriteAt(bytes.Repeat([]byte{2}, chunk), 0); err != nil {
		t.Fatal(err)
	}
	if err := o.Flush(); err != nil {
		t.Fatal(err)
	}
	disks := w.Reboot(crash.None)
	if s, err = Open(disks[1], Options{}); err != nil {
		t.Fatal(err)
	}
	n := attach(t, NewOrigin(disks[0], OriginOptions{Manual: true}), s)
	if !bytes.Equal(at(t, n, 0, size), bytes.Repeat([]byte{1}, size)) {
		t.Error("the snapshot shows what was written after its instant")
	}
}
