package nbd

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"cowl/internal/errs"
)

// Limits of what a server may send.
const (
	maxErrorChunk = 64 << 10 // bytes of an error with whatever belongs to it

	// maxStatusChunk is the protocol's own limit: 2^20 descriptors.
	maxStatusChunk = 4 + descriptorSize<<20
)

// receive reads replies until the connection ends or the server breaks the
// protocol, and then fails what is under way.
func (d *Device) receive(br *bufio.Reader) {
	defer close(d.received)
	var err error
	for err == nil {
		err = d.receiveReply(br)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	d.fail(fmt.Errorf("connection to the NBD server lost: %w", err))
	d.nc.Close()

	d.mu.Lock()
	lost, reason := d.pending, d.err
	d.pending = nil
	d.mu.Unlock()
	for _, c := range lost {
		c.err = reason
		close(c.done)
	}
}

// find returns the call with a cookie.
func (d *Device) find(cookie uint64) (*call, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.pending[cookie]
	if c == nil {
		return nil, errs.E(errs.Corrupt, "reply to a request that was not made (cookie %#x)", cookie)
	}
	return c, nil
}

// finish ends a call whose reply is complete.
func (d *Device) finish(c *call) {
	d.mu.Lock()
	delete(d.pending, c.cookie)
	d.mu.Unlock()
	close(c.done)
}

// receiveReply reads a simple reply or a chunk. An error is the end of the
// connection; a call's own failure is not one.
func (d *Device) receiveReply(br *bufio.Reader) error {
	head, err := br.Peek(4)
	if err != nil {
		return err
	}
	switch magic := be.Uint32(head); {
	case magic == magicSimple:
		return d.receiveSimple(br)
	case magic == magicStructured && d.structured:
		return d.receiveChunk(br)
	default:
		return errs.E(errs.Corrupt, "bad reply magic %#x", magic)
	}
}

func (d *Device) receiveSimple(br *bufio.Reader) error {
	var head [simpleReplySize]byte
	if _, err := io.ReadFull(br, head[:]); err != nil {
		return err
	}
	c, err := d.find(be.Uint64(head[8:]))
	if err != nil {
		return err
	}
	switch errno := be.Uint32(head[4:]); {
	case errno != 0:
		c.err = serverError(errno, "")
	case c.cmd == cmdRead && !d.structured:
		if _, err := io.ReadFull(br, c.data); err != nil {
			return err
		}
	case c.cmd == cmdRead || c.cmd == cmdBlockStatus:
		return errs.E(errs.Corrupt, "simple reply to command %d", c.cmd)
	}
	d.finish(c)
	return nil
}

// receiveChunk reads a chunk of a structured reply.
func (d *Device) receiveChunk(br *bufio.Reader) error {
	var head [chunkHeaderSize]byte
	if _, err := io.ReadFull(br, head[:]); err != nil {
		return err
	}
	flags, kind, length := be.Uint16(head[4:]), be.Uint16(head[6:]), be.Uint32(head[16:])
	c, err := d.find(be.Uint64(head[8:]))
	if err != nil {
		return err
	}
	switch {
	case kind == chunkNone && length == 0 && flags&replyFlagDone != 0:
	case kind == chunkData && c.cmd == cmdRead:
		err = c.receiveData(br, length)
	case kind == chunkHole && c.cmd == cmdRead && length == 12:
		err = c.receiveHole(br)
	case kind == chunkBlockStatus && c.cmd == cmdBlockStatus:
		err = c.receiveStatus(br, length)
	case kind&chunkErrorBit != 0:
		err = c.receiveError(br, length)
	default:
		err = errs.E(errs.Corrupt, "chunk of type %d and %d bytes in reply to command %d", kind, length, c.cmd)
	}
	if err != nil || flags&replyFlagDone == 0 {
		return err
	}
	if c.err == nil && c.got != len(c.data) {
		return errs.E(errs.Corrupt, "%d bytes in reply to a read of %d", c.got, len(c.data))
	}
	if c.err == nil && c.cmd == cmdBlockStatus && c.status[d.allocation] == nil {
		return errs.E(errs.Corrupt, "block status without %s", contextAllocation)
	}
	d.finish(c)
	return nil
}

// part returns where in the call's buffer a part of the export goes. Parts may
// come in any order. In the end they must be as long as the request: a server
// that sends one twice and another never is taken to mean it.
func (c *call) part(off uint64, length uint32) ([]byte, error) {
	at := off - c.off
	if off < c.off || at > uint64(len(c.data)) || uint64(length) > uint64(len(c.data))-at || length == 0 {
		return nil, errs.E(errs.Corrupt, "%d bytes at %d in reply to a read of %d at %d", length, off, len(c.data), c.off)
	}
	c.got += int(length)
	return c.data[at:][:length], nil
}

func (c *call) receiveData(br *bufio.Reader, length uint32) error {
	if length <= 8 {
		return errs.E(errs.Corrupt, "data chunk of %d bytes", length)
	}
	var head [8]byte
	if _, err := io.ReadFull(br, head[:]); err != nil {
		return err
	}
	p, err := c.part(be.Uint64(head[:]), length-8)
	if err != nil {
		return err
	}
	_, err = io.ReadFull(br, p)
	return err
}

func (c *call) receiveHole(br *bufio.Reader) error {
	var head [12]byte
	if _, err := io.ReadFull(br, head[:]); err != nil {
		return err
	}
	p, err := c.part(be.Uint64(head[:]), be.Uint32(head[8:]))
	if err != nil {
		return err
	}
	clear(p)
	return nil
}

// receiveStatus reads what one metadata context says: one that was asked for,
// and once.
func (c *call) receiveStatus(br *bufio.Reader, length uint32) error {
	if length < 4+descriptorSize || length > maxStatusChunk || (length-4)%descriptorSize != 0 {
		return errs.E(errs.Corrupt, "block status chunk of %d bytes", length)
	}
	var word [descriptorSize]byte
	if _, err := io.ReadFull(br, word[:4]); err != nil {
		return err
	}
	id := int64(be.Uint32(word[:]))
	if _, known := c.status[id]; !known || c.status[id] != nil {
		return errs.E(errs.Corrupt, "block status for metadata context %d", id)
	}
	list := make([]descriptor, (length-4)/descriptorSize)
	for i := range list {
		if _, err := io.ReadFull(br, word[:]); err != nil {
			return err
		}
		list[i] = descriptor{be.Uint32(word[:]), be.Uint32(word[4:])}
		if list[i].length == 0 {
			return errs.E(errs.Corrupt, "block status of an empty extent")
		}
	}
	c.status[id] = list
	return nil
}

// receiveError reads an error of any kind. The first one of a reply counts.
func (c *call) receiveError(br *bufio.Reader, length uint32) error {
	if length < 6 || length > maxErrorChunk {
		return errs.E(errs.Corrupt, "error chunk of %d bytes", length)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(br, body); err != nil {
		return err
	}
	errno, n := be.Uint32(body), int(be.Uint16(body[4:]))
	if errno == 0 || n > len(body)-6 {
		return errs.E(errs.Corrupt, "malformed error chunk")
	}
	if c.err == nil {
		c.err = serverError(errno, string(body[6:][:n]))
	}
	return nil
}

// serverError is a failure that the server reports, with its text if it has
// one.
func serverError(errno uint32, text string) error {
	if text == "" {
		text = errnoText(errno)
	}
	return errs.E(kindOf(errno), "server: %s", cutText(text, maxString))
}
