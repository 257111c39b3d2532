package snap

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
)

// window is a COW device that can be extended: the beginning of a larger one.
type window struct {
	block.Device
	size atomic.Int64
}

func newWindow(d block.Device, size int64) *window {
	w := &window{Device: d}
	w.size.Store(min(size, d.Size()))
	return w
}

func (w *window) Size() int64 { return w.size.Load() }

func (w *window) ReadAt(p []byte, off int64) (int, error) {
	if err := block.CheckRange(off, int64(len(p)), w.Size()); err != nil {
		return 0, err
	}
	return w.Device.ReadAt(p, off)
}

func (w *window) WriteAt(p []byte, off int64) (int, error) {
	if err := block.CheckRange(off, int64(len(p)), w.Size()); err != nil {
		return 0, err
	}
	return w.Device.WriteAt(p, off)
}

// grow lets the store have n bytes more, and reports whether there were any.
func (w *window) grow(s *Store, n int64) bool {
	if w.Size() == w.Device.Size() {
		return false
	}
	w.size.Store(min(w.Size()+n, w.Device.Size()))
	if s != nil {
		s.Grow()
	}
	return true
}

// Free must say exactly how many first writes the store survives, whatever its
// size: one chunk too many and an acknowledged write kills the snapshot.
func TestFreeIsExact(t *testing.T) {
	for _, chunk := range []int64{512, 4096} {
		perArea := chunk / 16
		for _, chunks := range []int64{3, 4, perArea, perArea + 1, perArea + 2, perArea + 3, perArea + 4, 2*perArea + 2, 2*perArea + 3, 2*perArea + 4, 3*perArea + 9} {
			o := NewOrigin(mem.New((chunks+1)*chunk), OriginOptions{Manual: true})
			n := attach(t, o, openStore(t, mem.New(chunks*chunk+7), chunk))
			for wrote := int64(0); ; wrote++ {
				free := n.Store().Free()
				if _, err := o.WriteAt(make([]byte, 512), wrote*chunk); err != nil {
					t.Fatal(err)
				}
				o.Settle()
				overflowed := n.Store().err() != nil
				if overflowed != (free == 0) {
					t.Fatalf("chunks of %d, %d in all: %d free before write %d, overflowed: %v", chunk, chunks, free, wrote, overflowed)
				}
				if overflowed {
					break
				}
			}
		}
	}
}

// A limit is as a shorter device for who asks for room, and Reach says which limit
// gives so much: a chunk too few, and somebody asks for ever; one too many, and a
// commit writes where there is no place.
func TestLimit(t *testing.T) {
	for _, chunk := range []int64{512, 4096} {
		perArea := chunk / 16
		long := openStore(t, mem.New(4*perArea*chunk), chunk)
		for chunks := range 3*perArea + 9 {
			long.Limit(chunks*chunk + 7)
			want := int64(0)
			if chunks >= 3 {
				want = openStore(t, mem.New(chunks*chunk), chunk).Free()
			}
			if got := long.Free(); got != want {
				t.Errorf("%d chunks of %d: %d are free, want %d", chunks, chunk, got, want)
			}
		}
		for n := range 3*perArea - 9 {
			long.Limit(long.Reach(n*chunk + 1))
			if got := long.Free(); got < n+1 {
				t.Errorf("%d chunks of %d are free, and %d were asked for", got, chunk, n+1)
			}
			long.Limit(long.Reach((n+1)*chunk) - 1)
			if got := long.Free(); got > n+1 {
				t.Errorf("%d chunks of %d are free, and %d would do", got, chunk, n+1)
			}
		}
	}
}

// A limit does not let a store overflow that is not reserved, and one that is
// asks before its commit goes behind it.
func TestLimitBindsWhoReserves(t *testing.T) {
	const size = 1 << 20
	o := NewOrigin(mem.New(size), OriginOptions{Manual: true})
	n := attach(t, o, newStore(t, size, 4096))
	n.Store().Limit(6 * 4096)
	n.Reserve(true)
	k, err := o.WriteAt(make([]byte, 8*4096), 0)
	if LacksRoom(err) == nil || k != 4*4096 {
		t.Errorf("%d bytes, %v", k, err)
	}
	n.Reserve(false)
	if _, err := o.WriteAt(make([]byte, 8*4096), 0); err != nil || o.Flush() != nil || n.Store().err() != nil {
		t.Errorf("%v, %v", err, n.Store().err())
	}
}

// What is acknowledged is in the snapshot's interest as well: with Reserve, the
// writes that would kill it are refused before, and only those.
func TestReserveRefusesWhatWouldOverflow(t *testing.T) {
	const size = 1 << 20
	for _, kind := range []string{"aligned", "unaligned", "zeroes", "snapshot"} {
		t.Run(kind, func(t *testing.T) {
			cow := newWindow(mem.New(size), 6*4096) // 4 chunks
			o := NewOrigin(mem.New(size), OriginOptions{Manual: true})
			n := attach(t, o, openStore(t, cow, 4096))
			roomy := attach(t, o, newStore(t, size, 8192))
			n.Reserve(true)
			write := func(off, length int64) (int64, error) {
				switch kind {
				case "zeroes":
					return length, o.WriteZeroes(off, length)
				case "snapshot":
					k, err := n.WriteAt(make([]byte, length), off)
					return int64(k), err
				case "unaligned":
					k, err := o.WriteAt(make([]byte, length-2), off+1)
					return int64(k), err
				}
				k, err := o.WriteAt(make([]byte, length), off)
				return int64(k), err
			}
			for i := range int64(4) {
				if _, err := write(i*8192, 4096); err != nil {
					t.Fatal(err)
				}
			}
			_, err := write(65536, 4096)
			no := LacksRoom(err)
			if no == nil || !errs.Is(err, errs.NoSpace) || !slices.Equal(no.Snaps, []*Snapshot{n}) {
				t.Fatalf("write behind the last chunk: %v", err)
			}
			if _, err := write(8192, 4096); err != nil {
				t.Errorf("chunk that was copied before: %v", err)
			}
			if err := o.Discard(65536, 4096); err != nil {
				t.Errorf("advice: %v", err)
			}
			cow.grow(n.Store(), 8192)
			k, err := write(65536, 4*4096)
			if kind != "zeroes" && (k >= 3*4096 || k < 2*4096-1) || LacksRoom(err) == nil {
				t.Errorf("a write of 4 chunks with room for 2: %d, %v", k, err)
			}
			n.Reserve(false)
			write(1<<19, 4096)
			if err := o.Flush(); err != nil || n.Store().err() == nil {
				t.Errorf("not reserved, and alive: %v", err)
			}
			if err := roomy.Store().err(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A merge does not sacrifice a sibling: it stops, and goes on with more room.
func TestMergeAsksForRoom(t *testing.T) {
	const size = 1 << 20
	o := NewOrigin(mem.New(size), OriginOptions{Manual: true})
	a := attach(t, o, newStore(t, size, 4096))
	if _, err := a.WriteAt(make([]byte, 16*4096), 0); err != nil {
		t.Fatal(err)
	}
	cow := newWindow(mem.New(size), 6*4096)
	b := attach(t, o, openStore(t, cow, 4096))
	b.Reserve(true)
	if err := o.StartMerge(a.Store(), a.Size()); err != nil {
		t.Fatal(err)
	}
	left, err := o.MergeStep()
	no := LacksRoom(err)
	if no == nil || left != 16 || no.Need != 16*4096 || no.Snaps[0] != b {
		t.Fatalf("%d left, %v", left, err)
	}
	cow.grow(b.Store(), 16*4096)
	if left, err := o.MergeStep(); err != nil || left != 0 {
		t.Fatalf("%d left, %v", left, err)
	}
	if err := b.Store().err(); err != nil {
		t.Fatal(err)
	}
}

// Many clients at once: never is more acknowledged than there is room for, and
// never is a write refused while there is some.
func TestReserveUnderLoad(t *testing.T) {
	const size = 4 << 20
	const chunks = 200
	o := NewOrigin(mem.New(size), OriginOptions{})
	n := attach(t, o, openStore(t, mem.New((chunks+2)*4096), 4096))
	attach(t, o, newStore(t, size, 16384))
	n.Reserve(true)
	var made, refused atomic.Int64
	var clients sync.WaitGroup
	for c := range 8 {
		clients.Go(func() {
			for i := range int64(size / 4096 / 8) {
				_, err := o.WriteAt(make([]byte, 4096), (i*8+int64(c))*4096)
				switch {
				case err == nil:
					made.Add(1)
				case LacksRoom(err) != nil:
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	clients.Wait()
	if err := errors.Join(o.Flush(), n.Store().err()); err != nil {
		t.Fatal(err)
	}
	if made.Load() != chunks || refused.Load() == 0 {
		t.Errorf("%d writes were made with room for %d, %d refused", made.Load(), chunks, refused.Load())
	}
}

// Who watches hears of every commit from the mark on.
func TestWatch(t *testing.T) {
	o := NewOrigin(mem.New(1<<20), OriginOptions{Manual: true})
	n := attach(t, o, newStore(t, 1<<20, 4096))
	heard := 0
	n.Store().Watch(5*4096, func() { heard++ })
	for i, want := range []int{0, 0, 1, 2} {
		if _, err := o.WriteAt(make([]byte, 4096), int64(i)*4096); err != nil {
			t.Fatal(err)
		}
		o.Settle()
		if heard != want {
			t.Errorf("behind write %d heard %d times, want %d", i, heard, want)
		}
	}
}

// admitted is how the machine writes where stores may be strict. If there is no
// room it does one of what the engine does: give the store more, refuse the
// rest of the write, or give the snapshot up.
func (m *machine) admitted(d block.Device, data *content, p []byte, off int64) error {
	data.write(off, p)
	for done := 0; ; {
		n, err := d.WriteAt(p[done:], off+int64(done))
		done += n
		no := LacksRoom(err)
		if no == nil {
			return err
		}
		for _, s := range no.Snaps {
			if free := s.store.Free(); free != 0 {
				return fmt.Errorf("refused with %d chunks free", free)
			}
		}
		if m.rng.IntN(3) == 0 {
			data.undo(off+int64(done), len(p)-done)
			return nil
		}
		m.makeRoom(no)
	}
}

// makeRoom lets a request that found no room succeed.
func (m *machine) makeRoom(no *NoRoom) {
	for _, s := range m.slots {
		if s.snap == nil || !slices.Contains(no.Snaps, s.snap) {
			continue
		}
		if m.rng.IntN(4) == 0 || !s.disk.grow(s.store, max(1<<13, no.Need)+2*s.chunk) {
			s.snap.Reserve(false)
			s.strict = false
		}
	}
}

// undo takes back the last write of a range, of which nothing was made.
func (c *content) undo(off int64, n int) {
	for s := off / sector; n > 0 && s <= (off+int64(n)-1)/sector; s++ {
		last := len(c.older[s]) - 1
		copy(c.sector(s), c.older[s][last])
		c.older[s] = c.older[s][:last]
	}
}

// growStore extends a store with nobody waiting for it.
func (m *machine) growStore() error {
	s := m.slots[m.rng.IntN(len(m.slots))]
	if s.used() {
		s.disk.grow(s.store, 1+m.rng.Int64N(16<<10))
	}
	return nil
}
