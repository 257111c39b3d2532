package backup

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"sync"
	"testing"

	"cowl/internal/block"
)

// Files of the test of moves: each is in one of two volumes, at its slot.
const (
	slots    = 16
	slotSize = 64 << 10
)

// filled is a file as the n-th operation wrote it; nil content is "not here".
func filled(n uint64, here bool) []byte {
	b := make([]byte, slotSize)
	binary.LittleEndian.PutUint64(b, n)
	for i := 8; here && i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], n)
	}
	return b
}

// mover moves files between volumes a and b for ever: it writes one into the
// other volume, then erases it where it was. The n-th operation, from 1 on, is
// the same in every run.
type mover struct{ dev [2]block.Device }

// operation returns where the n-th operation writes, and what.
func operation(n uint64) (volume int, off int64, data []byte) {
	move := (n - 1) / 2
	slot, from := move%slots, int(move/slots%2)
	if n%2 == 1 {
		return 1 - from, int64(slot) * slotSize, filled(n, true)
	}
	return from, int64(slot) * slotSize, filled(n, false)
}

// run goes on until stop is closed, and returns how many operations it did.
func (m *mover) run(t *testing.T, stop <-chan struct{}) (n uint64) {
	for n = 1; ; n++ {
		select {
		case <-stop:
			return n - 1
		default:
		}
		v, off, data := operation(n)
		if _, err := m.dev[v].WriteAt(data, off); err != nil {
			t.Error(err)
			return n - 1
		}
	}
}

// state is what the volumes hold after n operations. In the beginning all
// files are in a.
func state(n uint64, size int64) [2][]byte {
	s := [2][]byte{make([]byte, size), make([]byte, size)}
	for i := range int64(slots) {
		copy(s[0][i*slotSize:], filled(0, true))
	}
	first := uint64(1)
	if n > 8*slots {
		first = n - 8*slots // what came before was written over since
	}
	for i := first; i <= n; i++ {
		v, off, data := operation(i)
		copy(s[v][off:], data)
	}
	return s
}

// last is the number of the latest operation that an image shows.
func last(image []byte) (n uint64) {
	for i := range slots {
		n = max(n, binary.LittleEndian.Uint64(image[i*slotSize:]))
	}
	return n
}

// Files move from one volume to the other while both are backed up. Backups of
// two instants would have a file in both, or, worse, in neither; these have all
// that was written up to some operation, and nothing that was written after it.
func TestOneInstant(t *testing.T) {
	const size = 4 * mib
	s := newSite(t, gib)
	s.must("lvcreate -L 4M -n a vg")
	s.must("lvcreate -L 4M -n b vg")
	s.must("vgchange -ay vg")
	m := mover{[2]block.Device{s.open("a"), s.open("b")}}
	for i := range int64(slots) {
		if _, err := m.dev[0].WriteAt(filled(0, true), i*slotSize); err != nil {
			t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	var moving sync.WaitGroup
	var done uint64
	moving.Go(func() { done = m.run(t, stop) })
	var shown []uint64
	const rounds = 5
	for range rounds {
		var r struct {
			Backups []struct{ LV, Image string } `json:"backups"`
		}
		out := s.must("backup vg --to backups --json")
		if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.Backups) != 2 || r.Backups[0].LV != "a" {
			t.Fatalf("%v\n%s", err, out)
		}
		var images [2][]byte
		for i, b := range r.Backups {
			var err error
			if images[i], err = os.ReadFile(s.path(b.Image)); err != nil {
				t.Fatal(err)
			}
		}
		n := max(last(images[0]), last(images[1]))
		want := state(n, size)
		for i := range images {
			if !bytes.Equal(images[i], want[i]) {
				t.Errorf("volume %c is not as it was after %d operations; the two were last written by %d and %d",
					'a'+i, n, last(images[0]), last(images[1]))
			}
		}
		for slot := range slots {
			places := 0
			for i := range images {
				if binary.LittleEndian.Uint64(images[i][slot*slotSize+8:]) != 0 || n == 0 && i == 0 {
					places++
				}
			}
			inFlight := n%2 == 1 && uint64(slot) == (n-1)/2%slots
			if places != 1 && !(places == 2 && inFlight) && n > 2*slots {
				t.Errorf("after %d operations file %d is in %d volumes", n, slot, places)
			}
		}
		shown = append(shown, n)
	}
	close(stop)
	moving.Wait()
	if shown[rounds-1] <= shown[0] || done < 100 {
		t.Errorf("nothing moved meanwhile: the backups show operations %d, of %d", shown, done)
	}
	t.Logf("%d operations; the backups show them up to %d", done, shown)
	for _, d := range m.dev {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	s.must("vgchange -an vg")
}
