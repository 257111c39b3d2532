package backup

import (
	"context"
	"io"
	"iter"
	"sync"
	"sync/atomic"

	"cowl/internal/block"
	"cowl/internal/errs"
)

// The pipeline's measures. A data piece holds one buffer from being read
// until it is hashed and written, so that bufferCount*bufferBytes is all the
// memory an image takes, whatever its size.
const (
	bufferBytes = 1 << 20
	bufferCount = 12
	readerCount = 4
	writerCount = 2
	blockBytes  = 4096 // what is all zero in this unit is not data
)

// zeroes is what hashes of holes are made from.
var zeroes [bufferBytes]byte

// piece is a run of an image. It is read by one goroutine and then used by
// several at once, none of which may change it.
type piece struct {
	off, n int64
	buf    []byte // nil from the start for zeroes that nobody needs to read
	zero   bool   // all n bytes are zero; known once ready is closed
	ready  chan struct{}
	users  atomic.Int32
}

// sink is where an image's pieces go, several at once and in any order. A
// piece that is zero may have no buffer.
type sink interface {
	put(p *piece) error
}

// flow moves an image through hashing and writing, each piece in order
// through every hash. The first error cancels the context, whereupon
// everybody drops what is left.
type flow struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	bufs   chan []byte
	stages []chan *piece // whole hash, range hashes, sink
	wg     sync.WaitGroup
	done   func(bytes int64)
	// grain, unless zero, is what data begins and ends at multiples of, but for the
	// source's end. Set before the source is read.
	grain int64

	whole  *wholeHash
	ranges *rangeHash
}

// newFlow starts the stages behind the source. done is told, from one
// goroutine, of every run of bytes that was hashed.
func newFlow(ctx context.Context, to sink, done func(bytes int64)) *flow {
	f := &flow{bufs: make(chan []byte, bufferCount), done: done, whole: newWholeHash(), ranges: newRangeHash(RangeBytes)}
	f.ctx, f.cancel = context.WithCancelCause(ctx)
	for range bufferCount {
		f.bufs <- nil // allocated when first needed
	}
	stage := func(workers int, work func(*piece) error) {
		// Zero pieces hold no buffer, so the channel's capacity bounds them.
		in := make(chan *piece, 2*bufferCount)
		f.stages = append(f.stages, in)
		for range workers {
			f.wg.Go(func() { f.run(in, work) })
		}
	}
	stage(1, func(p *piece) error { f.whole.add(p); f.done(p.n); return nil })
	stage(1, func(p *piece) error { f.ranges.add(p); return nil })
	stage(writerCount, to.put)
	return f
}

// run is one worker of one stage.
func (f *flow) run(in <-chan *piece, work func(*piece) error) {
	for p := range in {
		select {
		case <-p.ready:
		case <-f.ctx.Done():
		}
		if f.ctx.Err() != nil {
			continue
		}
		if err := work(p); err != nil {
			f.cancel(err)
		}
		if p.users.Add(-1) == 0 && p.buf != nil {
			f.bufs <- p.buf[:cap(p.buf)]
		}
	}
}

// buffer waits for a free buffer; nil when the flow has failed.
func (f *flow) buffer() []byte {
	select {
	case b := <-f.bufs:
		if b == nil {
			b = make([]byte, bufferBytes)
		}
		return b
	case <-f.ctx.Done():
		return nil
	}
}

// send puts the piece into every stage.
func (f *flow) send(p *piece) error {
	p.users.Store(int32(len(f.stages)))
	for _, in := range f.stages {
		select {
		case in <- p:
		case <-f.ctx.Done():
			return context.Cause(f.ctx)
		}
	}
	return nil
}

// finish ends the flow after the last piece, or after an error of the source,
// and returns the first error of all.
func (f *flow) finish(err error) (digest, error) {
	if err != nil {
		f.cancel(err)
	}
	for _, in := range f.stages {
		close(in)
	}
	f.wg.Wait()
	defer f.cancel(nil)
	if f.ctx.Err() != nil {
		return digest{}, context.Cause(f.ctx)
	}
	return digest{whole: f.whole.sum(), ranges: f.ranges.sums()}, nil
}

// copyDevice sends the first size bytes of a device to the sink and returns
// their hashes. Extents that read as zeroes are not read. read counts the
// bytes that were.
func copyDevice(ctx context.Context, src block.Device, size int64, to sink, done func(int64)) (d digest, read int64, err error) {
	return newFlow(ctx, to, done).copy(src, size)
}

// copy feeds the flow from a device, and finishes it.
func (f *flow) copy(src block.Device, size int64) (d digest, read int64, err error) {
	work := make(chan *piece, bufferCount)
	var readers sync.WaitGroup
	for range readerCount {
		readers.Go(func() {
			for p := range work {
				f.read(src, p)
			}
		})
	}
	read, err = f.plan(src, size, work)
	close(work)
	readers.Wait()
	d, err = f.finish(err)
	return d, read, err
}

// read fills a piece.
func (f *flow) read(src io.ReaderAt, p *piece) {
	if f.ctx.Err() == nil {
		if _, err := src.ReadAt(p.buf, p.off); err != nil {
			f.cancel(err)
			return // run sees the cancelled context
		}
	}
	p.zero = isZero(p.buf)
	close(p.ready)
}

// plan walks the source in order and sends its pieces: data of at most one
// buffer and cut at its multiples, zeroes of at most one range.
func (f *flow) plan(src block.Device, size int64, work chan<- *piece) (read int64, err error) {
	var at int64
	for e, err := range f.extents(src, size) {
		if err != nil {
			return read, err
		}
		if e.Off != at || e.Len <= 0 || e.Len > size-at {
			return read, errs.E(errs.Other, "extent of %d bytes at %d does not continue the map at %d of %d", e.Len, e.Off, at, size)
		}
		at = e.End()
		for e.Len > 0 {
			p := &piece{off: e.Off}
			if e.Kind == block.Data {
				p.n = min(e.Len, bufferBytes-e.Off%bufferBytes)
				err = f.sendData(p, work)
				read += p.n
			} else {
				p.n = min(e.Len, RangeBytes-e.Off%RangeBytes)
				err = f.sendZeroes(p)
			}
			if err != nil {
				return read, err
			}
			e.Off += p.n
			e.Len -= p.n
		}
	}
	if at != size {
		return read, errs.E(errs.Other, "the map of extents ends at %d of %d bytes", at, size)
	}
	return read, nil
}

// extents is the source's map, with data widened to whole grains.
func (f *flow) extents(src block.Device, size int64) iter.Seq2[block.Extent, error] {
	all := block.Coalesce(src.Extents(0, size))
	if f.grain == 0 {
		return all
	}
	return block.Coalesce(func(yield func(block.Extent, error) bool) {
		var at int64 // the map as widened ends here
		for e, err := range all {
			if err != nil || e.Off > size || e.Len > size-e.Off {
				yield(e, err)
				return
			}
			start, end := e.Off, e.End()
			if e.Kind == block.Data {
				start = start / f.grain * f.grain
				if over := end % f.grain; over > 0 {
					end = min(end+f.grain-over, size)
				}
			}
			if start > at && !yield(block.Extent{Off: at, Len: start - at, Kind: block.Zero}, nil) {
				return
			}
			at = max(at, start)
			if e.Kind == block.Data && end > at {
				if !yield(block.Extent{Off: at, Len: end - at, Kind: block.Data}, nil) {
					return
				}
				at = end
			}
		}
		if at < size {
			yield(block.Extent{Off: at, Len: size - at, Kind: block.Zero}, nil)
		}
	})
}

func (f *flow) sendData(p *piece, work chan<- *piece) error {
	b := f.buffer()
	if b == nil {
		return context.Cause(f.ctx)
	}
	p.buf, p.ready = b[:p.n], make(chan struct{})
	work <- p // there are no more pieces than buffers, so this never waits
	return f.send(p)
}

func (f *flow) sendZeroes(p *piece) error {
	p.zero, p.ready = true, closed
	return f.send(p)
}

// closed is the ready channel of pieces that need no reading.
var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// flowWriter feeds a flow from a stream (an archive) instead of a device.
type flowWriter struct {
	f   *flow
	off int64
	buf []byte
	n   int
}

// Write implements io.Writer.
func (w *flowWriter) Write(b []byte) (int, error) {
	written := 0
	for len(b) > 0 {
		if w.buf == nil {
			if w.buf = w.f.buffer(); w.buf == nil {
				return written, context.Cause(w.f.ctx)
			}
		}
		n := copy(w.buf[w.n:], b)
		b = b[n:]
		w.n += n
		written += n
		if w.n == len(w.buf) {
			if err := w.flush(); err != nil {
				return written, err
			}
		}
	}
	return written, nil
}

// flush sends what has been collected.
func (w *flowWriter) flush() error {
	if w.n == 0 {
		return nil
	}
	p := &piece{off: w.off, n: int64(w.n), buf: w.buf[:w.n], ready: closed}
	p.zero = isZero(p.buf)
	w.off += p.n
	w.buf, w.n = nil, 0
	return w.f.send(p)
}

// isZero tells whether all bytes are zero.
func isZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeroes))
		if string(b[:n]) != string(zeroes[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}
