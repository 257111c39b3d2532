package demo

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"sync/atomic"

	"cowl/internal/block"
)

// A ledger is a file whose blocks are overwritten in place, one after another
// in an order that follows from the number of the write alone. So whoever
// reads all of its blocks can tell whether they are the state after exactly
// the first n writes, for some n: what a snapshot of a volume in use must be.
//
// A block is: 0 magic, 16 its index, 24 the number of the write that made it,
// 32 filler that follows from both, 4092 CRC-32 of what is before.
const (
	ledgerMagic  = "cowl demo ledger"
	ledgerBlock  = 4096
	ledgerBlocks = 2048
)

// ledger knows where on the volume the blocks are.
type ledger struct {
	offsets []int64 // by index
}

// ledgerContent is the whole file before the first write.
func ledgerContent() []byte {
	var b bytes.Buffer
	for i := range ledgerBlocks {
		b.Write(ledgerEntry(uint64(i), 0))
	}
	return b.Bytes()
}

// ledgerEntry is what write n puts into a block.
func ledgerEntry(index, n uint64) []byte {
	b := make([]byte, ledgerBlock)
	copy(b, ledgerMagic)
	binary.LittleEndian.PutUint64(b[16:], index)
	binary.LittleEndian.PutUint64(b[24:], n)
	filler := rand.New(rand.NewPCG(index, n))
	for i := 32; i < ledgerBlock-8; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], filler.Uint64())
	}
	binary.LittleEndian.PutUint32(b[ledgerBlock-4:], crc32.ChecksumIEEE(b[:ledgerBlock-4]))
	return b
}

// ledgerTarget is the index of the block that write n goes to.
func ledgerTarget(n uint64) uint64 { return rand.New(rand.NewPCG(n, 0)).Uint64N(ledgerBlocks) }

// findLedger looks for the blocks in an image of the volume: a file system
// puts a file's blocks where it likes, but whole.
func findLedger(image io.ReaderAt, size int64) (*ledger, error) {
	l := &ledger{offsets: make([]int64, ledgerBlocks)}
	found := 0
	b := make([]byte, ledgerBlock)
	for off := int64(0); off+ledgerBlock <= size; off += ledgerBlock {
		if _, err := image.ReadAt(b, off); err != nil {
			return nil, err
		}
		index := binary.LittleEndian.Uint64(b[16:])
		if string(b[:16]) != ledgerMagic || index >= ledgerBlocks || !bytes.Equal(b, ledgerEntry(index, 0)) {
			continue
		}
		l.offsets[index] = off
		found++
	}
	if found != ledgerBlocks {
		return nil, fmt.Errorf("the image has %d of the ledger's %d blocks", found, ledgerBlocks)
	}
	return l, nil
}

// check reads the ledger and returns how many writes it holds. It is an error
// if the blocks are not the state after exactly so many.
func (l *ledger) check(image io.ReaderAt) (writes uint64, err error) {
	got := make([]uint64, ledgerBlocks)
	b := make([]byte, ledgerBlock)
	for i, off := range l.offsets {
		if _, err := image.ReadAt(b, off); err != nil {
			return 0, err
		}
		got[i] = binary.LittleEndian.Uint64(b[24:])
		if !bytes.Equal(b, ledgerEntry(uint64(i), got[i])) {
			return 0, fmt.Errorf("block %d of the ledger is torn or not a ledger's", i)
		}
		writes = max(writes, got[i])
	}
	for i, want := range lastWrites(writes) {
		if got[i] != want {
			return 0, fmt.Errorf("block %d of the ledger is from write %d, but at write %d it was from %d: this is no instant that ever was", i, got[i], writes, want)
		}
	}
	return writes, nil
}

// lastWrites is which write each block is from, after so many.
func lastWrites(writes uint64) []uint64 {
	last := make([]uint64, ledgerBlocks)
	for n := uint64(1); n <= writes; n++ {
		last[ledgerTarget(n)] = n
	}
	return last
}

// writer goes on with the ledger until it is stopped, and reads back what it
// wrote.
type writer struct {
	dev    block.Device
	ledger *ledger
	// issued counts writes that have begun, acked those that are done. What a
	// snapshot shows lies between acked before and issued after it was taken.
	issued, acked atomic.Uint64
	checked       atomic.Uint64

	cancel context.CancelFunc
	done   chan error
}

// startWriter begins behind the first n writes. The device is the writer's,
// and closed by stop.
func startWriter(dev block.Device, l *ledger, n uint64) *writer {
	ctx, cancel := context.WithCancel(context.Background())
	w := &writer{dev: dev, ledger: l, cancel: cancel, done: make(chan error, 1)}
	w.issued.Store(n)
	w.acked.Store(n)
	go func() { w.done <- w.run(ctx, n) }()
	return w
}

func (w *writer) run(ctx context.Context, n uint64) error {
	last := lastWrites(n)
	for ctx.Err() == nil {
		n++
		i := ledgerTarget(n)
		last[i] = n
		w.issued.Store(n)
		if _, err := w.dev.WriteAt(ledgerEntry(i, n), w.ledger.offsets[i]); err != nil {
			return fmt.Errorf("write %d: %w", n, err)
		}
		w.acked.Store(n)
		if n%8 == 0 {
			if err := w.readBack(ledgerTarget(n/2), last); err != nil {
				return err
			}
		}
		if n%256 == 0 {
			if err := w.dev.Flush(); err != nil {
				return fmt.Errorf("flush after write %d: %w", n, err)
			}
		}
	}
	return w.dev.Flush()
}

func (w *writer) readBack(index uint64, last []uint64) error {
	b := make([]byte, ledgerBlock)
	if _, err := w.dev.ReadAt(b, w.ledger.offsets[index]); err != nil {
		return err
	}
	if !bytes.Equal(b, ledgerEntry(index, last[index])) {
		return fmt.Errorf("the writer reads back something else than its write %d", last[index])
	}
	w.checked.Add(1)
	return nil
}

// stop ends the writer and returns what it has found wrong.
func (w *writer) stop() error {
	w.cancel()
	err := <-w.done
	w.done <- nil // stopping twice is fine
	if closeErr := w.dev.Close(); err == nil {
		err = closeErr
	}
	return err
}
