package snap

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/mem"
)

// flushes is a device that counts them.
type flushes struct {
	block.Device
	n int
}

func (d *flushes) Flush() error {
	d.n++
	return d.Device.Flush()
}

// mergeAll merges to the end and returns in how many steps.
func mergeAll(t *testing.T, o *Origin) (steps int) {
	t.Helper()
	for left, err := 1, error(nil); left > 0; steps++ {
		if left, err = o.MergeStep(); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.FinishMerge(); err != nil {
		t.Fatal(err)
	}
	return steps
}

// Flushes are what a merge of scattered chunks spends its time on: the kernel
// makes four for each.
func TestFlushesOfAMerge(t *testing.T) {
	for _, c := range []struct {
		chunk int64
		n     int
	}{{4096, 2000}, {8192, 1000}, {64 << 10, 1024}, {256 << 10, 256}, {512 << 10, 128}} {
		t.Run(fmt.Sprint(c.chunk), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
			size := 2 * int64(c.n) * c.chunk
			disk := &flushes{Device: mem.New(size)}
			cow := &flushes{Device: mem.New(2 * size)}
			o := NewOrigin(disk, OriginOptions{})
			s := openStore(t, cow, c.chunk)
			n := attach(t, o, s)
			want := map[int]byte{}
			for _, i := range rng.Perm(c.n) {
				want[i] = byte(1 + rng.IntN(255))
				if _, err := n.WriteAt([]byte{want[i]}, 2*int64(i)*c.chunk); err != nil {
					t.Fatal(err)
				}
			}
			if s.Count() != c.n {
				t.Fatalf("%d exceptions", s.Count())
			}
			if err := o.StartMerge(s, size); err != nil {
				t.Fatal(err)
			}
			disk.n, cow.n = 0, 0
			steps := mergeAll(t, o)
			per := float64(disk.n+cow.n) / float64(c.n)
			t.Logf("%d steps, %.4f flushes an exception", steps, per)
			if disk.n < steps || cow.n < steps || per > 0.05 {
				t.Errorf("%d and %d flushes in %d steps, %.4f an exception", disk.n, cow.n, steps, per)
			}
			p := make([]byte, 1)
			for i, b := range want {
				if _, err := disk.ReadAt(p, 2*int64(i)*c.chunk); err != nil || p[0] != b {
					t.Fatalf("chunk %d is %d, want %d (%v)", 2*i, p[0], b, err)
				}
			}
		})
	}
}

// data returns how many bytes of a device are allocated.
func data(t *testing.T, d block.Device) (n int64) {
	t.Helper()
	for e, err := range d.Extents(0, d.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == block.Data {
			n += e.Len
		}
	}
	return n
}

// What was a hole when the snapshot was taken is one again afterwards, also in
// the middle of a chunk; otherwise a rollback fills a sparse image.
func TestMergeLeavesHoles(t *testing.T) {
	const size, chunk = 4 << 20, 64 << 10
	disk := mem.New(size)
	o := NewOrigin(disk, OriginOptions{})
	old := bytes.Repeat([]byte{1}, 5000)
	if _, err := o.WriteAt(old, 10*chunk+8192); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, size, chunk)
	attach(t, o, s)
	want := blocktest.ReadAll(t, o)
	if _, err := o.WriteAt(bytes.Repeat([]byte{2}, size), 0); err != nil {
		t.Fatal(err)
	}
	if err := o.StartMerge(s, size); err != nil {
		t.Fatal(err)
	}
	mergeAll(t, o)
	if !bytes.Equal(blocktest.ReadAll(t, disk), want) {
		t.Fatal("the origin is not what it was")
	}
	if n := data(t, disk); n != 8192 {
		t.Errorf("%d bytes are allocated, want 8192", n)
	}
}

// A discard during a merge frees what it names, whether it has been merged
// or is still to be.
func TestDiscardDuringAMerge(t *testing.T) {
	const size, chunk = 1 << 20, 4096
	disk, cow := mem.New(size), mem.New(4*size)
	o := NewOrigin(disk, OriginOptions{})
	s := openStore(t, cow, chunk)
	n := attach(t, o, s)
	if _, err := n.WriteAt(bytes.Repeat([]byte{1}, size), 0); err != nil {
		t.Fatal(err)
	}
	if err := o.StartMerge(s, size); err != nil {
		t.Fatal(err)
	}
	o.LimitMergeStep(64 * chunk)
	if left, err := o.MergeStep(); err != nil || left != size/chunk-64 {
		t.Fatal(left, err)
	}
	before := data(t, cow)
	if err := o.Discard(0, size); err != nil {
		t.Fatal(err)
	}
	if merged := data(t, disk); merged != 0 {
		t.Errorf("%d bytes of what is merged are still allocated", merged)
	}
	if freed := before - data(t, cow); freed != size-64*chunk {
		t.Errorf("%d bytes of what is to be merged are free, want %d", freed, size-64*chunk)
	}
	if _, err := o.WriteAt([]byte{7}, 5*chunk); err != nil {
		t.Fatal(err)
	}
	mergeAll(t, o)
	if n := data(t, disk); n != chunk {
		t.Errorf("%d bytes of the merged origin are allocated, want %d", n, chunk)
	}
	p := make([]byte, 1)
	if _, err := o.ReadAt(p, 5*chunk); err != nil || p[0] != 7 {
		t.Errorf("what was written behind the discard reads %d (%v)", p[0], err)
	}
}

// stuck is a device whose flushes wait, once armed.
type stuck struct {
	*mem.Device
	armed             bool
	entered, released chan struct{}
}

func (d *stuck) Flush() error {
	if d.armed {
		d.armed = false
		close(d.entered)
		<-d.released
	}
	return d.Device.Flush()
}

// While a step waits for the origin's flush, chunks that it has copied can be
// written, and what is written counts: by what the origin holds if the step
// is the last, by what the COW device does if the power goes before.
func TestWriteBehindACopyOfAMerge(t *testing.T) {
	const size, chunk = 1 << 20, 4096
	disk := &stuck{Device: mem.New(size), entered: make(chan struct{}), released: make(chan struct{})}
	cow := mem.New(4 * size)
	o := NewOrigin(disk, OriginOptions{})
	s := openStore(t, cow, chunk)
	n := attach(t, o, s)
	if _, err := n.WriteAt(bytes.Repeat([]byte{1}, 3*chunk), 0); err != nil {
		t.Fatal(err)
	}
	if err := o.StartMerge(s, size); err != nil {
		t.Fatal(err)
	}
	disk.armed = true
	done := make(chan error)
	go func() {
		_, err := o.MergeStep()
		done <- err
	}()
	<-disk.entered
	if _, err := o.WriteAt(bytes.Repeat([]byte{2}, chunk), chunk+512); err != nil { // does not wait
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte{1}, 3*chunk)
	copy(want[chunk+512:], bytes.Repeat([]byte{2}, chunk))
	check := func(what string, o *Origin) {
		t.Helper()
		got := make([]byte, len(want))
		if read(t, o, got); !bytes.Equal(got, want) {
			t.Errorf("%s: wrong content", what)
		}
	}
	check("in the middle of the step", o)
	// As if the power went now: the exceptions are on disk, and the COW counts.
	again := NewOrigin(disk.Device.Clone(), OriginOptions{})
	if err := again.StartMerge(openStore(t, cow.Clone(), chunk), size); err != nil {
		t.Fatal(err)
	}
	check("after a power cut", again)
	mergeAll(t, again)
	check("merged after a power cut", again)
	close(disk.released)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	check("merged", o)
	got := make([]byte, len(want))
	if read(t, disk, got); !bytes.Equal(got, want) {
		t.Error("the origin's device has something else")
	}
}
