package nbd

import (
	"bufio"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"cowl/internal/block"
	"cowl/internal/errs"
)

// Device is an export of an NBD server: a block.Device over one connection, on
// which any number of requests are under way at once. A grown export shows its
// new size when it is dialled again.
//
// When the connection breaks, or the server breaks the protocol, everything
// under way fails, and so does everything after it: nothing is sent twice.
//
// Close may be called with calls in flight, which then fail.
type Device struct {
	nc         net.Conn
	size       int64
	flags      uint16
	maxPayload int64
	structured bool
	allocation int64 // the server's id for the metadata context, -1 for none
	depth      int64

	senders atomic.Int32 // who hold or wait for send
	send    sync.Mutex   // guards bw
	bw      *bufio.Writer

	mu      sync.Mutex
	cookie  uint64
	pending map[uint64]*call
	err     error // why no more calls are taken

	received chan struct{} // closed when the receiver has ended
}

// call is a request that waits for its reply. Until done the receiver owns it.
type call struct {
	request
	data   []byte                 // READ: where to put what comes
	got    int                    // READ: bytes that came
	status map[int64][]descriptor // BLOCK_STATUS: by context, nil until it comes
	err    error                  // the server's
	done   chan struct{}
}

// descriptor is a part of an answer to BLOCK_STATUS.
type descriptor struct{ length, state uint32 }

// maxSpan is the longest request without a payload, in bytes: what fits 32
// bits and keeps alignment.
const maxSpan = 1 << 31

// errClosed fails what is called after Close.
var errClosed = errs.E(errs.Usage, "device is closed")

// ReadAt implements block.Device.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	if err := block.CheckRange(off, int64(len(p)), d.size); err != nil {
		return 0, err
	}
	n := 0
	for n < len(p) {
		part := p[n:min(len(p), n+int(d.maxPayload))]
		c := call{request: request{cmd: cmdRead, off: uint64(off) + uint64(n), length: uint32(len(part))}, data: part}
		if err := d.do(&c, nil); err != nil {
			return n, fmt.Errorf("nbd read at %d: %w", off+int64(n), err)
		}
		n += len(part)
	}
	return n, nil
}

// WriteAt implements block.Device.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	if err := d.checkWrite(off, int64(len(p))); err != nil {
		return 0, err
	}
	n := 0
	for n < len(p) {
		part := p[n:min(len(p), n+int(d.maxPayload))]
		c := call{request: request{cmd: cmdWrite, off: uint64(off) + uint64(n), length: uint32(len(part))}}
		if err := d.do(&c, part); err != nil {
			return n, fmt.Errorf("nbd write at %d: %w", off+int64(n), err)
		}
		n += len(part)
	}
	return n, nil
}

// checkWrite refuses what would change a read-only device or reach beyond it.
func (d *Device) checkWrite(off, length int64) error {
	if err := block.CheckRange(off, length, d.size); err != nil {
		return err
	}
	if d.flags&flagReadOnly != 0 {
		return block.ErrReadOnly
	}
	return nil
}

// Flush implements block.Device.
func (d *Device) Flush() error {
	switch {
	case d.flags&flagSendFlush != 0:
		if err := d.do(&call{request: request{cmd: cmdFlush}}, nil); err != nil {
			return fmt.Errorf("nbd flush: %w", err)
		}
	case d.flags&flagReadOnly == 0:
		return errs.E(errs.Unsupported, "nbd flush: the server has none")
	}
	return nil
}

// Discard implements block.Device.
func (d *Device) Discard(off, length int64) error {
	if err := d.checkWrite(off, length); err != nil {
		return err
	}
	if d.flags&flagSendTrim == 0 {
		return nil
	}
	return d.spans(cmdTrim, "discard", off, length)
}

// WriteZeroes implements block.Device.
func (d *Device) WriteZeroes(off, length int64) error {
	if err := d.checkWrite(off, length); err != nil {
		return err
	}
	if d.flags&flagSendWriteZeroes == 0 {
		return block.WriteZeroBytes(d, off, length)
	}
	return d.spans(cmdWriteZeroes, "write zeroes", off, length)
}

// spans sends a command without a payload, in pieces where it is too long for
// one.
func (d *Device) spans(cmd uint16, name string, off, length int64) error {
	for length > 0 {
		n := min(length, maxSpan)
		c := call{request: request{cmd: cmd, off: uint64(off), length: uint32(n)}}
		if err := d.do(&c, nil); err != nil {
			return fmt.Errorf("nbd %s at %d: %w", name, off, err)
		}
		off, length = off+n, length-n
	}
	return nil
}

// Size implements block.Device.
func (d *Device) Size() int64 { return d.size }

// Caps implements block.Device.
func (d *Device) Caps() block.Caps {
	return block.Caps{
		ReadOnly:  d.flags&flagReadOnly != 0,
		Discard:   d.flags&flagSendTrim != 0,
		Zeroes:    d.flags&flagSendWriteZeroes != 0,
		BlockSize: block.SectorSize,
	}
}

const (
	// closeTimeout is how long Close waits for the server to take the farewell.
	closeTimeout = time.Second
	// releaseTimeout is how long it then waits for the server's own.
	releaseTimeout = 5 * time.Second
)

// Close implements block.Device. It returns when the server has let go of the
// export, which it says by ending the connection: who closes a volume may then
// remove it.
func (d *Device) Close() error {
	d.mu.Lock()
	alive := d.err == nil
	if alive {
		d.err = errClosed
	}
	d.mu.Unlock()
	if alive {
		// Even behind a sender that is stuck: its write fails with the deadline.
		d.nc.SetWriteDeadline(time.Now().Add(closeTimeout))
		d.send.Lock()
		d.bw.Write(request{cmd: cmdDisconnect}.append(nil))
		d.bw.Flush()
		d.send.Unlock()
		d.nc.SetReadDeadline(time.Now().Add(releaseTimeout))
		<-d.received
	}
	d.nc.Close() // the receiver may have closed it already
	<-d.received
	return nil
}

// do sends a request and waits for its reply.
func (d *Device) do(c *call, payload []byte) error {
	c.done = make(chan struct{})
	if err := d.register(c); err != nil {
		return err
	}
	if err := d.write(c.request, payload); err != nil {
		// Nothing more can be sent. The receiver notices, and ends this call.
		d.fail(err)
		d.nc.Close()
	}
	// Also after a failure: only then nobody touches c.data any more.
	<-c.done
	return c.err
}

// register gives the call a cookie under which its reply will find it.
func (d *Device) register(c *call) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return d.err
	}
	d.cookie++
	c.cookie = d.cookie
	d.pending[c.cookie] = c
	return nil
}

// write sends a request. When several goroutines send, the last of them
// flushes for all.
func (d *Device) write(r request, payload []byte) error {
	d.senders.Add(1)
	d.send.Lock()
	defer d.send.Unlock()
	last := d.senders.Add(-1) == 0
	var head [requestSize]byte
	d.bw.Write(r.append(head[:0]))
	d.bw.Write(payload)
	if !last {
		return nil // whoever flushes learns of an error, and it fails us all
	}
	return d.bw.Flush()
}

// fail sets why calls are refused from now on. The first reason stays.
func (d *Device) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.err = err
	}
}
