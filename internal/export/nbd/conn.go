package nbd

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"cowl/internal/block"
	"cowl/internal/errs"
)

// Limits of one connection.
const (
	maxWorkers = 16
	// maxWaiting is how many workers there may be where writes may have to wait
	// for a person: others shall be served meanwhile, within maxHeld.
	maxWaiting = 1024
	readBuffer = 256 << 10 // bytes of requests that one read may fetch

	// maxHeld bounds the payloads and replies in flight, in bytes: two of the
	// largest requests, or some thousands of small ones.
	maxHeld = 2 * (maxPayload + replyRoom)

	// maxRefused is the longest WRITE that is read to its end only in order to
	// refuse it. Behind a longer one the connection is dropped.
	maxRefused = 2 * maxPayload

	// drainTimeout is how long a client that has left, or must leave, may take
	// to take its last replies.
	drainTimeout = 30 * time.Second
)

// conn is one client's connection.
type conn struct {
	srv *Server
	nc  net.Conn
	br  *bufio.Reader // the decoder's

	mu      sync.Mutex
	stopped bool // no more deadlines: Shutdown has set the last

	// Set when the handshake is over.
	dev        block.Device
	structured bool
	contexts   []metaContext

	budget *budget
	out    *outbox
	reads  pace
	writes pace

	jobs    chan job
	workers int // started
	working sync.WaitGroup
}

// job is a request with the buffer for its reply.
type job struct {
	request
	buf     *buffer
	payload []byte // of a WRITE: in buf, or in the decoder's own buffer
}

func newConn(s *Server, nc net.Conn) *conn {
	budget, stream := newBudget(maxHeld), newStream(nc)
	return &conn{
		srv:    s,
		nc:     nc,
		br:     bufio.NewReaderSize(stream, readBuffer),
		budget: budget,
		out:    &outbox{stream: stream, budget: budget},
		jobs:   make(chan job),
	}
}

// serve runs the connection from greeting to end.
func (c *conn) serve() error {
	h := handshake{c: c, exports: c.srv.exports}
	err := h.run()
	if h.dev == nil {
		return c.reason(err)
	}
	c.dev, c.structured, c.contexts = h.dev, h.structured, h.contexts
	if err == nil {
		c.expect(0)
		err = c.transmit()
	}
	if cerr := c.dev.Close(); err == nil {
		err = cerr
	}
	return c.reason(err)
}

// reason tells a connection that was stopped from one that broke.
func (c *conn) reason(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) && c.isStopped() {
		return errStopped
	}
	return err
}

// stop makes the decoder run out of requests: it serves those that have
// arrived, and ends.
func (c *conn) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	c.nc.SetReadDeadline(time.Unix(1, 0))
}

func (c *conn) isStopped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopped
}

// expect gives the client so long to send or take what comes next, 0 for as
// long as it likes.
func (c *conn) expect(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var at time.Time
	if d != 0 {
		at = time.Now().Add(d)
	}
	c.nc.SetWriteDeadline(at)
	if !c.stopped {
		c.nc.SetReadDeadline(at)
	}
}

// transmit serves requests until the client leaves or breaks the protocol, and
// then sees the replies out.
func (c *conn) transmit() error {
	defer c.drain()
	for {
		if c.br.Buffered() < requestSize {
			c.out.flush()
		}
		head, err := c.br.Peek(requestSize)
		if err != nil {
			return endOfStream(err, len(head) > 0)
		}
		r, ok := decodeRequest(head)
		if !ok {
			return errs.E(errs.Usage, "bad request magic %#x", be.Uint32(head))
		}
		c.br.Discard(requestSize)
		if r.cmd == cmdDisconnect {
			return nil
		}
		if err := c.accept(r); err != nil {
			return err
		}
	}
}

// drain waits for the workers and writes what is left. A client that is leaving
// must not take forever to take it.
func (c *conn) drain() {
	c.nc.SetWriteDeadline(time.Now().Add(drainTimeout))
	close(c.jobs)
	c.working.Wait()
	c.out.flush()
}

// accept serves a request, hands it to a worker, or refuses it. An error ends
// the connection.
func (c *conn) accept(r request) error {
	if err := c.check(r); err != nil {
		return c.refuse(r, err)
	}
	if c.isQuick(r) {
		return c.serveInline(r)
	}
	j := job{request: r, buf: c.take(c.payloadSize(r))}
	if r.cmd == cmdWrite {
		j.payload = j.buf.data[replyRoom:][:r.length]
		if err := c.readPayload(j.payload); err != nil {
			c.drop(j.buf)
			return err
		}
	}
	c.hand(j)
	return nil
}

// serveInline serves a request in the decoder's goroutine. The reply waits for
// those of the other requests that have arrived.
func (c *conn) serveInline(r request) error {
	j := job{request: r}
	if r.cmd == cmdRead {
		j.buf = c.take(int(r.length))
	} else {
		j.buf = c.take(0)
		if c.br.Buffered() < int(r.length) {
			c.out.flush()
		}
		var err error
		if j.payload, err = c.br.Peek(int(r.length)); err != nil {
			c.drop(j.buf)
			return truncated(err)
		}
	}
	c.perform(j)
	c.br.Discard(len(j.payload))
	c.out.put(j.buf)
	return nil
}

// refuse answers a request that makes no sense, having read past its payload.
func (c *conn) refuse(r request, err error) error {
	buf := c.take(0)
	c.appendFailure(buf, r, err)
	c.out.send(buf)
	if r.cmd != cmdWrite {
		return nil
	}
	if r.length > maxRefused {
		return errs.E(errs.Usage, "write of %d bytes", r.length)
	}
	_, err = c.br.Discard(int(r.length))
	return truncated(err)
}

// take returns a buffer for a payload of n bytes, waiting until the budget has
// them.
func (c *conn) take(n int) *buffer {
	cost := int64(bufferSizes[bufferClass(n)] + replyRoom)
	if !c.budget.tryTake(cost) {
		c.out.flush() // what waits there may be what holds the budget
		c.budget.take(cost)
	}
	b := newBuffer(n)
	b.cost = cost
	return b
}

// drop gives a buffer back whose reply nobody waits for any more.
func (c *conn) drop(b *buffer) {
	c.budget.give(b.cost)
	b.free()
}

// readPayload reads a WRITE's payload.
func (c *conn) readPayload(p []byte) error {
	if c.br.Buffered() < len(p) {
		c.out.flush()
	}
	_, err := io.ReadFull(c.br, p)
	return truncated(err)
}

// truncated says of the end of the stream that it came within a payload.
func truncated(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("payload of a write: %w", err)
	}
	return nil
}

// hand gives a job to a worker that waits, or to a new one.
func (c *conn) hand(j job) {
	select {
	case c.jobs <- j:
		return
	default:
	}
	if c.workers < maxWorkers || c.workers < maxWaiting && c.dev.Caps().Waits {
		c.workers++
		c.working.Go(func() { c.work(j) })
		return
	}
	c.out.flush()
	c.jobs <- j
}

// work serves a first job and then others until there are no more.
func (c *conn) work(j job) {
	for ok := true; ok; j, ok = <-c.jobs {
		c.perform(j)
		c.out.send(j.buf)
	}
}
