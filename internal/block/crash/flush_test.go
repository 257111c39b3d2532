package crash

import (
	"bytes"
	"testing"
)

// A flush that begins while a write is in flight must not cover it, nor lose
// it; and what the write overtakes must not come back.
func TestFlushCoversOnlyWhatReturned(t *testing.T) {
	content := func(v byte) []byte { return bytes.Repeat([]byte{v}, 512) }
	d := New(512)
	submit := func(v byte) *write {
		by, err := d.submit("write", content(v), 0, 512)
		if err != nil {
			t.Fatal(err)
		}
		return by
	}
	flush := func() {
		if err := d.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	may := func(when string, want ...byte) {
		t.Helper()
		var p [1]byte
		_, _ = d.ReadAt(p[:], 0)
		if p[0] != want[len(want)-1] {
			t.Errorf("%s: reads %d, want %d", when, p[0], want[len(want)-1])
		}
		for i, v := range want {
			_, _ = d.world.Reboot(func(Sector) int { return i })[0].ReadAt(p[:], 0)
			if p[0] != v {
				t.Errorf("%s: choice %d gives %d, want %d", when, i, p[0], v)
			}
		}
		if n := len(d.unsynced[0]); n != len(want)-1 {
			t.Errorf("%s: %d unflushed versions, want %d", when, n, len(want)-1)
		}
	}

	w1 := submit(1)
	flush()
	may("flush with 1 in flight", 0, 1)
	d.complete(w1)
	may("1 returned after the flush", 0, 1)
	w2 := submit(2)
	flush()
	may("flush with 2 in flight", 1, 2)
	w3 := submit(3)
	d.complete(w3)
	flush()
	may("3 overtook 2", 3)
	d.complete(w2)
	may("2 returns", 3)

	// A write that returns between the flush's start and its end is not covered.
	w4 := submit(4)
	before := d.world.clock
	d.complete(w4)
	if _, err := d.flush(before); err != nil {
		t.Fatal(err)
	}
	may("4 returned while the flush ran", 3, 4)
}

// Ranges of nothing must cost nothing: a discard of a huge empty disk.
func TestHugeRangesAreCheap(t *testing.T) {
	d := New(16 << 40)
	if _, err := d.WriteAt([]byte{1}, 5<<40); err != nil {
		t.Fatal(err)
	}
	if err := d.WriteZeroes(0, d.Size()); err != nil {
		t.Fatal(err)
	}
	if err := d.Discard(0, d.Size()); err != nil {
		t.Fatal(err)
	}
	if n := len(d.unsynced); n != 1 {
		t.Errorf("%d sectors unsynced, want 1", n)
	}
}
