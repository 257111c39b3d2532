package snap

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
)

// newStore formats and opens a store on fresh memory with room for every chunk
// of an origin of size bytes.
func newStore(t testing.TB, size, chunk int64) *Store {
	t.Helper()
	return openStore(t, mem.New(2*size+64*chunk), chunk)
}

func openStore(t testing.TB, cow block.Device, chunk int64) *Store {
	t.Helper()
	s, err := Open(cow, Options{ChunkBytes: chunk})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func attach(t testing.TB, o *Origin, s *Store) *Snapshot {
	t.Helper()
	n, err := o.Attach(s, o.Size(), false)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// An origin under snapshots of several chunk sizes must still be a device.
func TestOriginConforms(t *testing.T) {
	blocktest.Run(t, func(t *testing.T, size int64) block.Device {
		o := NewOrigin(mem.New(size), OriginOptions{})
		for _, chunk := range []int64{512, 4096, 64 << 10} {
			attach(t, o, newStore(t, size, chunk))
		}
		return o
	}, blocktest.Options{})
}

func TestSnapshotConforms(t *testing.T) {
	blocktest.Run(t, func(t *testing.T, size int64) block.Device {
		return attach(t, NewOrigin(mem.New(size), OriginOptions{}), newStore(t, size, 4096))
	}, blocktest.Options{})
}

// An origin that is being merged into is a device, wherever its bytes are.
func TestMergingOriginConforms(t *testing.T) {
	blocktest.Run(t, func(t *testing.T, size int64) block.Device {
		o := NewOrigin(mem.New(size), OriginOptions{})
		s := newStore(t, size, 4096)
		n := attach(t, o, s)
		for off := int64(0); off+8192 < size; off += 3 * 8192 {
			if err := n.WriteZeroes(off, 8192); err != nil {
				t.Fatal(err)
			}
		}
		if err := o.StartMerge(s, o.Size()); err != nil {
			t.Fatal(err)
		}
		attach(t, o, newStore(t, size, 4096))
		return o
	}, blocktest.Options{})
}

// While many write the origin, every snapshot must go on reading its instant:
// also those that are taken in the middle of it.
func TestSnapshotsHoldTheirInstantUnderLoad(t *testing.T) {
	const size = 4 << 20
	seed := blocktest.Seed(t)
	o := NewOrigin(mem.New(size), OriginOptions{})
	write := func(rng *rand.Rand, gen int) {
		p := make([]byte, 512*(1+rng.IntN(40)))
		for i := range p {
			p[i] = byte(gen)
		}
		if _, err := o.WriteAt(p, rng.Int64N(size-int64(len(p)))); err != nil {
			t.Error(err)
		}
	}
	var writers sync.WaitGroup
	stop := make(chan struct{})
	for w := range 6 {
		rng := rand.New(rand.NewPCG(seed, uint64(w)))
		writers.Go(func() {
			for gen := 0; ; gen++ {
				select {
				case <-stop:
					return
				default:
					write(rng, gen)
				}
			}
		})
	}
	var readers sync.WaitGroup
	for i, chunk := range []int64{4096, 4096, 512, 32 << 10} {
		n := attach(t, o, newStore(t, size, chunk))
		readers.Go(func() {
			first := make([]byte, size)
			again := make([]byte, size)
			read(t, n, first)
			for round := range 20 {
				if read(t, n, again); !bytes.Equal(first, again) {
					t.Errorf("snapshot %d changed in round %d (seed %d)", i, round, seed)
					return
				}
			}
		})
	}
	readers.Wait()
	close(stop)
	writers.Wait()
}

// slow is a device whose flushes wait for a permission, once they are watched.
type slow struct {
	*mem.Device
	watched          atomic.Bool
	flushing, permit chan struct{}
}

func (d *slow) Flush() error {
	if !d.watched.Load() {
		return nil
	}
	d.flushing <- struct{}{}
	<-d.permit
	return nil
}

// A snapshot that is attached in the middle of a write that cannot be staged
// has it in its content or not, but does not change its mind.
func TestAttachDuringAnUnalignedWrite(t *testing.T) {
	const size = 64 << 10
	o := NewOrigin(mem.New(size), OriginOptions{})
	cow := &slow{Device: mem.New(size), flushing: make(chan struct{}), permit: make(chan struct{})}
	if err := Format(cow.Device, 4096); err != nil {
		t.Fatal(err)
	}
	attach(t, o, openStore(t, cow, 4096))
	cow.watched.Store(true)
	written := make(chan error)
	go func() {
		_, err := o.WriteAt([]byte("new"), 1)
		written <- err
	}()
	<-cow.flushing // the old chunk is on its way, the origin not written yet
	late := newStore(t, size, 4096)
	attached := make(chan *Snapshot, 1)
	go func() { attached <- attach(t, o, late) }()
	before := make([]byte, 8)
	var n *Snapshot
	select {
	case n = <-attached:
		read(t, n, before)
	case <-time.After(50 * time.Millisecond): // it waits for the write, which is right
	}
	for done := false; !done; {
		select {
		case cow.permit <- struct{}{}:
		case <-cow.flushing:
		case err := <-written:
			if done = true; err != nil {
				t.Fatal(err)
			}
		}
	}
	if n == nil {
		n = <-attached
		read(t, n, before)
	}
	after := make([]byte, 8)
	if read(t, n, after); !bytes.Equal(before, after) {
		t.Errorf("the snapshot read %q, and then %q", before, after)
	}
}

func read(t testing.TB, d block.Device, p []byte) {
	t.Helper()
	if _, err := d.ReadAt(p, 0); err != nil {
		t.Error(err)
	}
}

// The kernel's rule of overflow: the snapshot dies, the origin's write
// succeeds, and a restart finds the snapshot dead.
func TestOverflowInvalidates(t *testing.T) {
	const size = 1 << 20
	for _, chunks := range []int64{3, 4, 5, 100, 258, 259} {
		t.Run(fmt.Sprint(chunks), func(t *testing.T) {
			cow := mem.New(chunks * 4096)
			o := NewOrigin(mem.New(2*size), OriginOptions{})
			n := attach(t, o, openStore(t, cow, 4096))
			var wrote int64
			for n.Store().err() == nil {
				if _, err := o.WriteAt([]byte{1}, wrote*4096); err != nil {
					t.Fatal(err)
				}
				wrote++
			}
			if u := n.Store().Usage(); !u.Invalid || u.Reason == "" {
				t.Fatalf("usage %+v", u)
			}
			if _, err := n.ReadAt(make([]byte, 1), 0); err == nil {
				t.Fatal("an invalid snapshot was read")
			}
			b := make([]byte, 1)
			if _, err := o.ReadAt(b, (wrote-1)*4096); err != nil || b[0] != 1 {
				t.Fatalf("origin: %v %v", b, err)
			}
			if s := openStore(t, cow, 4096); !s.Usage().Invalid {
				t.Fatal("valid after a restart")
			}
			// The kernel needs a terminating area behind a full one.
			if want := min(chunks-2, 256) + 1; chunks < 258 && wrote != want {
				t.Fatalf("overflowed at write %d, want %d", wrote, want)
			}
		})
	}
}

// A snapshot write that finds no chunk kills the snapshot too, and fails.
func TestSnapshotWriteOverflows(t *testing.T) {
	o := NewOrigin(mem.New(1<<20), OriginOptions{})
	n := attach(t, o, openStore(t, mem.New(4*4096), 4096))
	var err error
	for i := int64(0); err == nil && i < 10; i++ {
		_, err = n.WriteAt([]byte{1}, i*4096)
	}
	if err == nil || !n.Store().Usage().Invalid {
		t.Fatalf("%v, %+v", err, n.Store().Usage())
	}
}

// LVM's tools show the kernel's numbers; an empty store of 4 MiB in 4 KiB
// chunks reads 16/8192 16.
func TestUsageIsTheKernels(t *testing.T) {
	o := NewOrigin(mem.New(8<<20), OriginOptions{})
	n := attach(t, o, openStore(t, mem.New(4<<20), 4096))
	check := func(allocated, metadata int64) {
		t.Helper()
		if u := n.Store().Usage(); u.Allocated != allocated*512 || u.Total != 8192*512 || u.Metadata != metadata*512 {
			t.Fatalf("%d/%d %d", u.Allocated/512, u.Total/512, u.Metadata/512)
		}
	}
	check(16, 16)
	for i := range int64(256) {
		if _, err := o.WriteAt([]byte{1}, i*4096); err != nil {
			t.Fatal(err)
		}
	}
	check(259*8, 3*8)
}

func TestAttachRefusesStrangeStores(t *testing.T) {
	big := NewOrigin(mem.New(1<<20), OriginOptions{})
	s := newStore(t, 1<<20, 4096)
	attach(t, big, s)
	if _, err := big.WriteAt([]byte{1}, 1<<20-1); err != nil {
		t.Fatal(err)
	}
	small := NewOrigin(mem.New(1<<19), OriginOptions{})
	if _, err := small.Attach(s, small.Size(), false); !errs.Is(err, errs.Corrupt) {
		t.Errorf("exceptions behind the end: %v", err)
	}
	if _, err := big.Attach(s, big.Size(), false); !errs.Is(err, errs.Conflict) {
		t.Errorf("attached twice: %v", err)
	}
	if _, err := big.Attach(newStore(t, 1<<20, 4096), 2<<20, false); !errs.Is(err, errs.Corrupt) {
		t.Errorf("larger than the origin: %v", err)
	}
	giant := NewOrigin(mem.New(maxOrigin+1), OriginOptions{})
	if _, err := giant.Attach(newStore(t, 1<<20, 4096), 1<<20, false); !errs.Is(err, errs.Unsupported) {
		t.Errorf("an origin larger than can be: %v", err)
	}
}

func TestReadOnlySnapshotRefusesWrites(t *testing.T) {
	o := NewOrigin(mem.New(1<<20), OriginOptions{})
	n, err := o.Attach(newStore(t, 1<<20, 4096), o.Size(), true)
	if err != nil {
		t.Fatal(err)
	}
	blocktest.RunReadOnly(t, n, make([]byte, 1<<20))
}

// A snapshot that dies while its extents are walked names none that its
// origin got afterwards: a hole would be copied as zeroes, without a read that
// fails.
func TestExtentsOfASnapshotThatDies(t *testing.T) {
	dev := &hooked{Device: mem.New(1 << 20), before: map[string]func(){}}
	o := NewOrigin(dev, OriginOptions{Manual: true})
	if _, err := o.WriteAt(bytes.Repeat([]byte{1}, 64<<10), 0); err != nil {
		t.Fatal(err)
	}
	n := attach(t, o, openStore(t, mem.New(3*4096), 4096))
	dev.before["extents"] = func() {
		if err := o.Discard(0, 64<<10); err != nil { // 16 chunks into a store for one
			t.Error(err)
		}
	}
	for e, err := range n.Extents(0, 64<<10) {
		if err == nil && e.Kind != block.Data {
			t.Errorf("%+v of what was data when the snapshot was taken", e)
		}
	}
	if n.Store().err() == nil {
		t.Error("the snapshot is alive")
	}
}

// A chunk at the origin's end is copied as far as the origin goes, as by the
// kernel, wherever the snapshot ends; nothing else gets into the store.
func TestChunkAtTheEnd(t *testing.T) {
	const chunk = 8 << 10
	for _, c := range []struct {
		name         string
		origin, snap int64
		rest         []byte // what is behind the write in the chunk
	}{
		{"the snapshot ends within the origin", 2 * chunk, 3 * chunk / 2, bytes.Repeat([]byte{1}, chunk/2)},
		{"the origin ends within the chunk", 3 * chunk / 2, 3 * chunk / 2, make([]byte, chunk/2)},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := NewOrigin(mem.New(c.origin), OriginOptions{Manual: true})
			if _, err := o.WriteAt(bytes.Repeat([]byte{1}, int(c.origin)), 0); err != nil {
				t.Fatal(err)
			}
			cow := mem.New(1 << 20)
			n, err := o.Attach(openStore(t, cow, chunk), c.snap, false)
			if err != nil {
				t.Fatal(err)
			}
			for _, off := range []int64{0, chunk} { // the second fills all of the snapshot's last chunk
				if _, err := n.WriteAt(bytes.Repeat([]byte{2}, chunk/2), off); err != nil {
					t.Fatal(err)
				}
			}
			got := make([]byte, chunk)
			if _, err := cow.ReadAt(got, 3*chunk); err != nil {
				t.Fatal(err)
			}
			if want := append(bytes.Repeat([]byte{2}, chunk/2), c.rest...); !bytes.Equal(got, want) {
				t.Errorf("the chunk ends with %x..., want %x...", got[chunk/2:][:4], want[chunk/2:][:4])
			}
		})
	}
}

// Behind the origin's end a copy of its last chunk is zero, and not what a buffer
// held of another volume's data before.
func TestCopyOfAShortChunkIsZeroBehindIt(t *testing.T) {
	const chunk = 8 << 10
	o := NewOrigin(mem.New(4*chunk+chunk/2), OriginOptions{Manual: true})
	cow := mem.New(1 << 20)
	n := attach(t, o, openStore(t, cow, chunk))
	if _, err := n.WriteAt(bytes.Repeat([]byte{0xff}, 4*chunk-1), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := o.WriteAt(make([]byte, 512), 4*chunk); err != nil || o.Flush() != nil {
		t.Fatal(err)
	}
	if n.Store().Count() != 5 {
		t.Fatalf("%d exceptions", n.Store().Count())
	}
	got := make([]byte, chunk)
	if _, err := cow.ReadAt(got, 6*chunk); err != nil || !bytes.Equal(got, make([]byte, chunk)) {
		t.Errorf("%v, the chunk ends with %x", err, got[chunk-4:])
	}
}

// A snapshot that dies while it is read says so: what its origin holds by then
// is not its content.
func TestReadOfASnapshotThatDies(t *testing.T) {
	dev := &hooked{Device: mem.New(1 << 20), before: map[string]func(){}}
	o := NewOrigin(dev, OriginOptions{Manual: true})
	n := attach(t, o, openStore(t, mem.New(3*4096), 4096))
	dev.before["read"] = func() {
		if _, err := o.WriteAt(bytes.Repeat([]byte{1}, 64<<10), 0); err != nil { // 16 chunks into a store for one
			t.Error(err)
		}
		o.Settle()
	}
	got := make([]byte, 64<<10)
	if _, err := n.ReadAt(got, 0); err == nil && !bytes.Equal(got, make([]byte, 64<<10)) {
		t.Error("read what was written after the snapshot was taken")
	}
	if n.Store().err() == nil {
		t.Error("the snapshot is alive")
	}
}
