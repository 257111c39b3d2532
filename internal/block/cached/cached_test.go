package cached

import (
	"bytes"
	"errors"
	"iter"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/mem"
)

// slow is a device that counts what is read of it, and takes its time for that.
type slow struct {
	block.Device
	mu    sync.Mutex
	reads map[int64]int
	most  int // reads at a time
	now   int
	fail  func(off int64) error
}

const pause = 10 * time.Millisecond

func (s *slow) ReadAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	s.reads[off]++
	s.now++
	s.most = max(s.most, s.now)
	s.mu.Unlock()
	time.Sleep(pause)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now--
	if s.fail != nil {
		if err := s.fail(off); err != nil {
			return 0, err
		}
	}
	return s.Device.ReadAt(p, off)
}

func (s *slow) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	return s.Device.Extents(off, length)
}

// made returns a slow device of size bytes, its content, and a cache over it.
func made(t testing.TB, size int64, o Options) (*slow, []byte, *Device) {
	t.Helper()
	content := make([]byte, size)
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 1))
	for off := int64(0); off < size; off += 16 << 10 { // every fourth piece of 16 KiB is a hole
		if end := min(off+16<<10, size); off>>14%4 != 3 {
			for i := off; i < end; i++ {
				content[i] = byte(rng.Uint32())
			}
		}
	}
	below := mem.New(size)
	for off := int64(0); off < size; off += 16 << 10 {
		if end := min(off+16<<10, size); off>>14%4 != 3 {
			if _, err := below.WriteAt(content[off:end], off); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := &slow{Device: below, reads: map[int64]int{}}
	return s, content, New(s, o)
}

func TestConformance(t *testing.T) {
	_, content, d := made(t, 300_001, Options{Block: 4096, Memory: 20_000, Ahead: 16 << 10, Parallel: 2})
	blocktest.RunReadOnly(t, d, content)
}

// Many readers in a cache that holds a fraction of what they read get the
// device's bytes, and the cache stays as small as it should.
func TestReadersAtOnce(t *testing.T) {
	const memory = 16 << 10
	seed := blocktest.Seed(t)
	synctest.Test(t, func(t *testing.T) {
		_, content, d := made(t, 1<<20+77, Options{Block: 4096, Memory: memory, Ahead: 64 << 10})
		var wg sync.WaitGroup
		for i := range uint64(8) {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(seed, i))
				for range 100 {
					off := rng.Int64N(int64(len(content)))
					p := make([]byte, rng.Int64N(min(40_000, int64(len(content))-off)+1))
					if _, err := d.ReadAt(p, off); err != nil || !bytes.Equal(p, content[off:][:len(p)]) {
						t.Errorf("%d bytes at %d are not the device's (%v)", len(p), off, err)
						return
					}
				}
			})
		}
		wg.Wait()
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		var kept int64
		for _, e := range d.blocks {
			kept += int64(len(e.data))
		}
		if kept > memory || kept != d.bytes || d.used.Len() != len(d.blocks) {
			t.Errorf("%d bytes in %d blocks are kept, %d are accounted for, in %d", kept, len(d.blocks), d.bytes, d.used.Len())
		}
	})
}

// Who asks for what is on its way waits for it.
func TestNoBlockTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, content, d := made(t, 1<<20, Options{Block: 4096})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				p := make([]byte, 64<<10)
				if _, err := d.ReadAt(p, 0); err != nil || !bytes.Equal(p, content[:len(p)]) {
					t.Errorf("not the device's bytes (%v)", err)
				}
			})
		}
		wg.Wait()
		d.Close()
		for off, n := range s.reads {
			if n != 1 {
				t.Errorf("block at %d was read %d times", off, n)
			}
		}
		if len(s.reads) == 0 || s.reads[48<<10] != 0 {
			t.Error("nothing was read, or a hole")
		}
	})
}

// One who reads on waits for the first blocks only; one who jumps about causes
// no reads but its own.
func TestReadAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, content, d := made(t, 4<<20, Options{Block: 16 << 10, Parallel: 4})
		p := make([]byte, 8<<10)
		start := time.Now()
		for off := int64(0); off < 4<<20; off += int64(len(p)) {
			if _, err := d.ReadAt(p, off); err != nil || !bytes.Equal(p, content[off:][:len(p)]) {
				t.Fatalf("at %d: not the device's bytes (%v)", off, err)
			}
		}
		alone := pause * 4 << 20 / (16 << 10) * 3 / 4  // one after the other, holes left out
		if took := time.Since(start); took > alone/3 { // a clock of the test's own
			t.Errorf("it took %v, and one block after the other would take %v", took, alone)
		}
		if s.most > 4+1 {
			t.Errorf("%d reads at a time", s.most)
		}
		for off, n := range s.reads {
			if n != 1 {
				t.Errorf("block at %d was read %d times", off, n)
			}
		}
		d.Close()
	})
	synctest.Test(t, func(t *testing.T) {
		s, _, d := made(t, 4<<20, Options{Block: 16 << 10})
		for _, off := range []int64{1 << 20, 0, 3 << 20, 2 << 20, 1 << 19} {
			if _, err := d.ReadAt(make([]byte, 4096), off); err != nil {
				t.Fatal(err)
			}
		}
		d.Close()
		if len(s.reads) != 5 {
			t.Errorf("%d blocks were read for 5 readers", len(s.reads))
		}
	})
}

// An error goes to who needs the block, and not to who reads beside it; when
// it is over, it is over.
func TestErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, content, d := made(t, 1<<20, Options{Block: 16 << 10})
		var broken atomic.Bool
		broken.Store(true)
		damage := errors.New("damaged")
		s.fail = func(off int64) error {
			if broken.Load() && off == 64<<10 {
				return damage
			}
			return nil
		}
		p := make([]byte, 16<<10)
		for off := int64(0); off < 1<<20; off += int64(len(p)) {
			_, err := d.ReadAt(p, off)
			switch {
			case off == 64<<10 && !errors.Is(err, damage):
				t.Errorf("at the damage: %v", err)
			case off != 64<<10 && (err != nil || !bytes.Equal(p, content[off:][:len(p)])):
				t.Errorf("at %d: not the device's bytes (%v)", off, err)
			}
		}
		big := make([]byte, 128<<10)
		if n, err := d.ReadAt(big, 32<<10); !errors.Is(err, damage) || n != 32<<10 {
			t.Errorf("over the damage: %d bytes, %v", n, err)
		}
		broken.Store(false)
		if _, err := d.ReadAt(big, 32<<10); err != nil || !bytes.Equal(big, content[32<<10:][:len(big)]) {
			t.Errorf("afterwards: %v", err)
		}
		d.Close()
	})
}
