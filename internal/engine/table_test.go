package engine

import (
	"bytes"
	"errors"
	"iter"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
)

// stuck is a device whose writes take until they are released.
type stuck struct {
	block.Device
	began, release chan struct{}
}

func (d stuck) WriteAt(p []byte, off int64) (int, error) {
	d.began <- struct{}{}
	<-d.release
	return d.Device.WriteAt(p, off)
}

// A table that was swapped while a request was under way, or that let one
// through while it was suspended, would send a write past a snapshot.
func TestSuspendWaitsForRequestsAndHoldsNewOnes(t *testing.T) {
	old := stuck{mem.New(4096), make(chan struct{}), make(chan struct{})}
	tb := &table{dev: old}
	write := func(b byte) error {
		return tb.write(func(dev block.Device) error {
			_, err := dev.WriteAt([]byte{b}, 0)
			return err
		})
	}
	first, suspended, second := make(chan error, 1), make(chan struct{}), make(chan error, 1)
	go func() { first <- write(1) }()
	<-old.began
	go func() {
		tb.suspend()
		close(suspended)
	}()
	until(t, "the table says that it is being suspended", tb.suspended.Load)
	stays(t, "suspended with a request in flight", suspended)
	close(old.release)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	<-suspended
	next := mem.New(4096)
	through := make(chan struct{})
	go func() {
		second <- write(2)
		close(through)
	}()
	stays(t, "a request went through a suspended table", through)
	tb.dev = next
	tb.resume()
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		dev  block.Device
		byte byte
	}{{old.Device, 1}, {next, 2}} {
		got := make([]byte, 1)
		want.dev.ReadAt(got, 0)
		if got[0] != want.byte {
			t.Errorf("device holds %d, want %d", got[0], want.byte)
		}
	}
}

func TestReadOnlyTakesEffectBetweenRequests(t *testing.T) {
	tb := &table{dev: mem.New(4096)}
	tb.setReadOnly(true)
	err := tb.write(func(block.Device) error { t.Error("wrote"); return nil })
	if !errors.Is(err, block.ErrReadOnly) {
		t.Errorf("write: %v", err)
	}
	if err := tb.read(block.Device.Flush); err != nil {
		t.Errorf("flush: %v", err)
	}
}

// A backup walks the extents and writes into the same volume's snapshot, while
// a snapshot of it is taken: with the gate held over the walk that is a
// deadlock.
func TestExtentsDoNotHoldTheGate(t *testing.T) {
	dev := mem.New(4 << 20)
	for off := int64(0); off < dev.Size(); off += 128 << 10 {
		if _, err := dev.WriteAt([]byte{1}, off); err != nil {
			t.Fatal(err)
		}
	}
	tb := &table{dev: dev}
	var got []block.Extent
	for e, err := range tb.extents(0, dev.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		tb.swap(dev)
		got = append(got, e)
	}
	var want []block.Extent
	for e := range dev.Extents(0, dev.Size()) {
		want = append(want, e)
	}
	if len(got) != len(want) || len(got) < 32 {
		t.Errorf("got %d extents, want %d", len(got), len(want))
	}
}

// many yields more extents than fit one batch, then fails.
type many struct {
	block.Device
	n int
}

func (d many) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		for at := off; at < off+length; at++ {
			if at == int64(d.n) {
				yield(block.Extent{}, errs.E(errs.Other, "extent %d", at))
				return
			}
			if !yield(block.Extent{Off: at, Len: 1, Depth: int(at)}, nil) {
				return
			}
		}
	}
}

func TestExtentsAcrossBatches(t *testing.T) {
	tb := &table{dev: many{mem.New(1 << 20), 3*extentBatch + 7}}
	next := int64(5)
	var failed error
	for e, err := range tb.extents(5, 4*extentBatch) {
		if err != nil {
			failed = err
			break
		}
		if e.Off != next || e.Depth != int(next) {
			t.Fatalf("got %+v at %d", e, next)
		}
		next++
	}
	if failed == nil || next != 3*extentBatch+7 {
		t.Errorf("ended at %d with %v", next, failed)
	}
	for range tb.extents(0, 4*extentBatch) {
		break // a reader that has seen enough
	}
}

func TestExtentsOutOfRange(t *testing.T) {
	tb := &table{dev: mem.New(4096)}
	for _, err := range tb.extents(0, 4097) {
		if !errs.Is(err, errs.Usage) {
			t.Errorf("got %v", err)
		}
	}
	for e, err := range tb.extents(4096, 0) {
		t.Errorf("an empty range yields %v, %v", e, err)
	}
	var buf [1]byte
	if err := tb.read(func(d block.Device) error { _, err := d.ReadAt(buf[:], 0); return err }); err != nil || !bytes.Equal(buf[:], []byte{0}) {
		t.Errorf("read: %v", err)
	}
}
