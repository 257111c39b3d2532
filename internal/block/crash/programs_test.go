package crash_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/crash"
)

// commit writes a payload and a record of one sector that vouches for it.
func commit(d block.Device, no uint64, flushFirst bool) error {
	payload := bytes.Repeat([]byte{byte(no)}, 2*sector)
	if _, err := d.WriteAt(payload, int64(1+no%2*2)*sector); err != nil {
		return err
	}
	if flushFirst {
		if err := d.Flush(); err != nil {
			return err
		}
	}
	var record [sector]byte
	binary.LittleEndian.PutUint64(record[:], no)
	if _, err := d.WriteAt(record[:], 0); err != nil {
		return err
	}
	return d.Flush()
}

// consistent checks that what the record vouches for is there, and that it is
// not older than what was promised.
func consistent(t *testing.T, d block.Device, promised uint64) bool {
	b := blocktest.ReadAll(t, d)
	no := binary.LittleEndian.Uint64(b)
	payload := b[(1+no%2*2)*sector:][:2*sector]
	return no >= promised && bytes.Equal(payload, bytes.Repeat([]byte{byte(no)}, 2*sector))
}

// The simulator must find the classic bug, a missing flush before the commit
// record, and must not accuse the program that has it.
func TestFindsMissingFlush(t *testing.T) {
	for _, flushFirst := range []bool{true, false} {
		rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
		bad, cuts := 0, 0
		for n := int64(1); ; n++ {
			d := crash.New(5 * sector)
			d.World().CutAt(n)
			promised := uint64(0)
			for no := uint64(1); no <= 5 && commit(d, no, flushFirst) == nil; no++ {
				promised = no
			}
			if !d.World().Down() {
				break
			}
			cuts++
			for _, disks := range d.World().Reboots(rng, 5) {
				if !consistent(t, disks[0], promised) {
					bad++
				}
			}
		}
		if want := map[bool]int{true: 20, false: 15}[flushFirst]; cuts != want {
			t.Errorf("flush first %v: %d cuts, want %d", flushFirst, cuts, want)
		}
		if flushFirst && bad > 0 || !flushFirst && bad == 0 {
			t.Errorf("flush first %v: %d inconsistent reboots", flushFirst, bad)
		}
	}
}

// What a writer was told to be durable is so, whatever goes on beside it: run
// with -race.
func TestParallelPromises(t *testing.T) {
	const writers = 4
	w := crash.NewWorld()
	d := w.NewDisk("d", writers*sector)
	w.CutAt(1000)
	var promised [writers]byte
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for v := byte(1); ; v = v%120 + 1 {
				if _, err := d.WriteAt(sectors(v), int64(i)*sector); err != nil {
					return
				}
				if v%2 == 0 {
					continue // never promised by itself
				}
				if d.Flush() != nil {
					return
				}
				promised[i] = v
				_, _ = d.ReadAt(make([]byte, sector), int64(i)*sector)
			}
		})
	}
	wg.Wait()
	if !w.Down() {
		t.Fatal("the power was not cut")
	}
	for name, disks := range w.Reboots(rand.New(rand.NewPCG(blocktest.Seed(t), 0)), 100) {
		b := blocktest.ReadAll(t, disks[0])
		for i, p := range promised {
			got := b[i*sector]
			if ahead := (int(got) - int(p) + 120) % 120; ahead > 2 {
				t.Errorf("%s: writer %d was promised %d, found %d", name, i, p, got)
			}
		}
	}
}
