package nbd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"time"

	"cowl/internal/errs"
)

// maxReplies bounds the replies to one option.
const maxReplies = 1000

// Dial connects to a server and opens one of its exports. The context bounds
// that, not the life of the Device.
//
// A server that insists on aligned requests, or on TLS, is errs.Unsupported;
// an export that it does not have errs.NotFound.
func Dial(ctx context.Context, network, addr, export string) (*Device, error) {
	var dialer net.Dialer
	nc, err := dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return open(ctx, nc, export)
}

// open does the client's part of the handshake. The connection is closed where
// it fails.
func open(ctx context.Context, nc net.Conn, export string) (*Device, error) {
	interrupt := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	n := negotiation{nc: nc, br: bufio.NewReaderSize(nc, readBuffer)}
	d, err := n.run(export)
	if !interrupt() && err == nil { // the deadline has come between
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("open NBD export %q: %w", export, err)
	}
	go d.receive(n.br)
	return d, nil
}

// negotiation is the client's side of the handshake.
type negotiation struct {
	nc net.Conn
	br *bufio.Reader
}

// optionReply is one reply to an option.
type optionReply struct {
	kind uint32
	data []byte
}

func (n *negotiation) run(export string) (*Device, error) {
	if err := n.greet(); err != nil {
		return nil, err
	}
	d := &Device{
		nc:         n.nc,
		bw:         bufio.NewWriterSize(n.nc, 64<<10),
		maxPayload: maxPayload,
		pending:    make(map[uint64]*call),
		received:   make(chan struct{}),
	}
	if err := n.structured(d); err != nil {
		return nil, err
	}
	if err := n.contexts(d, export); err != nil {
		return nil, err
	}
	return d, n.goExport(d, export)
}

// greet exchanges the flags.
func (n *negotiation) greet() error {
	var b [greetingSize]byte
	if _, err := io.ReadFull(n.br, b[:]); err != nil {
		return err
	}
	if be.Uint64(b[:]) != magicInit {
		return errs.E(errs.Corrupt, "not an NBD server: it says %q", b[:8])
	}
	flags := be.Uint16(b[16:])
	if be.Uint64(b[8:]) != magicOption || flags&flagFixedNewstyle == 0 {
		return errs.E(errs.Unsupported, "NBD server does not speak the fixed newstyle protocol")
	}
	_, err := n.nc.Write(be.AppendUint32(nil, uint32(flags&(flagFixedNewstyle|flagNoZeroes))))
	return err
}

// structured asks for structured replies.
func (n *negotiation) structured(d *Device) error {
	replies, err := n.option(optStructuredReply, nil)
	d.structured = err == nil && len(replies) == 0
	return ignoreRefusal(err)
}

// contexts asks for the metadata contexts that Extents is made of.
func (n *negotiation) contexts(d *Device, export string) error {
	d.allocation, d.depth = -1, -1
	if !d.structured {
		return nil
	}
	data := appendString(nil, export)
	data = be.AppendUint32(data, 2)
	data = appendString(data, contextAllocation)
	data = appendString(data, contextDepth)
	replies, err := n.option(optSetMeta, data)
	if err != nil {
		return ignoreRefusal(err)
	}
	for _, r := range replies {
		if r.kind != repMetaContext || len(r.data) < 4 {
			return errs.E(errs.Corrupt, "reply %#x of %d bytes to SET_META_CONTEXT", r.kind, len(r.data))
		}
		switch id := int64(be.Uint32(r.data)); string(r.data[4:]) {
		case contextAllocation:
			d.allocation = id
		case contextDepth:
			d.depth = id
		}
	}
	if d.allocation == d.depth && d.depth >= 0 {
		return errs.E(errs.Corrupt, "two metadata contexts with one id")
	}
	return nil
}

// goExport opens the export and learns about it.
func (n *negotiation) goExport(d *Device, export string) error {
	data := appendString(nil, export)
	data = be.AppendUint16(data, 1)
	data = be.AppendUint16(data, infoBlockSize)
	replies, err := n.option(optGo, data)
	if err != nil {
		return err
	}
	for _, r := range replies {
		f := fields{b: r.data}
		switch kind := f.u16(); {
		case r.kind != repInfo || f.bad:
			return errs.E(errs.Corrupt, "reply %#x of %d bytes to GO", r.kind, len(r.data))
		case kind == infoExport:
			err = d.setExport(&f)
		case kind == infoBlockSize:
			err = d.setBlockSize(&f)
		}
		if err != nil {
			return err
		}
	}
	if d.flags&flagHasFlags == 0 {
		return errs.E(errs.Corrupt, "server says nothing of the export")
	}
	return nil
}

// setExport takes what follows infoExport.
func (d *Device) setExport(f *fields) error {
	size := uint64(f.u32())<<32 | uint64(f.u32())
	d.size, d.flags = int64(size), f.u16()
	if !f.end() || size > math.MaxInt64 {
		return errs.E(errs.Corrupt, "export of %d bytes", size)
	}
	return nil
}

// setBlockSize takes what follows infoBlockSize.
func (d *Device) setBlockSize(f *fields) error {
	minimum, preferred, maximum := f.u32(), f.u32(), f.u32()
	switch {
	case !f.end() || maximum == 0 || maximum < minimum || preferred < minimum:
		return errs.E(errs.Corrupt, "block sizes %d, %d, %d", minimum, preferred, maximum)
	case minimum > 1:
		return errs.E(errs.Unsupported, "server takes only requests aligned to %d bytes", minimum)
	}
	d.maxPayload = min(int64(maximum), maxPayload)
	return nil
}

// option sends an option and returns its replies without the final ACK. An
// error reply is an error of what kind it means.
func (n *negotiation) option(opt uint32, data []byte) ([]optionReply, error) {
	out := be.AppendUint64(nil, magicOption)
	out = be.AppendUint32(out, opt)
	out = be.AppendUint32(out, uint32(len(data)))
	if _, err := n.nc.Write(append(out, data...)); err != nil {
		return nil, err
	}
	var replies []optionReply
	for range maxReplies {
		r, err := n.readReply(opt)
		switch {
		case err != nil:
			return nil, err
		case r.kind == repAck:
			return replies, nil
		case r.kind&repErr != 0:
			return nil, refused(r)
		}
		replies = append(replies, r)
	}
	return nil, errs.E(errs.Corrupt, "more than %d replies to option %d", maxReplies, opt)
}

// readReply reads one reply to an option.
func (n *negotiation) readReply(opt uint32) (optionReply, error) {
	var head [optionReplySize]byte
	if _, err := io.ReadFull(n.br, head[:]); err != nil {
		return optionReply{}, err
	}
	length := be.Uint32(head[16:])
	if be.Uint64(head[:]) != magicOptionReply || be.Uint32(head[8:]) != opt || length > maxOption {
		return optionReply{}, errs.E(errs.Corrupt, "malformed reply to option %d", opt)
	}
	r := optionReply{be.Uint32(head[12:]), make([]byte, length)}
	_, err := io.ReadFull(n.br, r.data)
	return r, err
}

// errRefused is in all errors that a server answers an option with.
var errRefused = errors.New("server refuses")

// refused makes an error reply to an option an error.
func refused(r optionReply) error {
	kind := errs.Other
	switch r.kind {
	case repErrUnknown:
		kind = errs.NotFound
	case repErrPolicy:
		kind = errs.Denied
	case repErrShutdown:
		kind = errs.Busy
	case repErrUnsup, repErrPlatform, repErrTLSReqd:
		kind = errs.Unsupported
	}
	return errs.E(kind, "%w (%#x): %s", errRefused, r.kind, cutText(string(r.data), maxString))
}

// ignoreRefusal passes on all errors but a server's no to an optional thing.
func ignoreRefusal(err error) error {
	if errors.Is(err, errRefused) {
		return nil
	}
	return err
}
