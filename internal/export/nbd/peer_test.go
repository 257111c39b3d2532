package nbd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// peer is a client that says exactly what a test wants it to say.
type peer struct {
	t  testing.TB
	nc net.Conn
}

// patience is how long a peer waits for anything. It only ends tests that fail.
const patience = 20 * time.Second

// newPeer connects to a server and exchanges the flags.
func newPeer(t testing.TB, s *Server) *peer {
	t.Helper()
	p := &peer{t, pipe(t, s)}
	p.nc.SetDeadline(time.Now().Add(patience))
	p.expect(greeting())
	p.say(be.AppendUint32(nil, flagFixedNewstyle|flagNoZeroes))
	return p
}

// greeting is what the server says first.
func greeting() []byte {
	b := be.AppendUint64(nil, magicInit)
	b = be.AppendUint64(b, magicOption)
	return be.AppendUint16(b, 3)
}

func (p *peer) say(b []byte) {
	p.t.Helper()
	if _, err := p.nc.Write(b); err != nil {
		p.t.Fatalf("send: %v", err)
	}
}

func (p *peer) hear(n int) []byte {
	p.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(p.nc, b); err != nil {
		p.t.Fatalf("receive %d bytes: %v", n, err)
	}
	return b
}

func (p *peer) expect(want []byte) {
	p.t.Helper()
	if got := p.hear(len(want)); !bytes.Equal(got, want) {
		p.t.Fatalf("received\n%x, want\n%x", got, want)
	}
}

// expectEnd waits for the server to hang up, and wants nothing before it.
func (p *peer) expectEnd() {
	p.t.Helper()
	rest, err := io.ReadAll(p.nc)
	if len(rest) > 0 || err != nil && !errors.Is(err, io.ErrClosedPipe) {
		p.t.Fatalf("want the connection closed, received %x, %v", rest, err)
	}
}

// option sends an option and returns the replies up to the ACK or error.
func (p *peer) option(opt uint32, data []byte) []optionReply {
	p.t.Helper()
	p.sendOption(opt, data)
	var replies []optionReply
	for {
		r := p.reply(opt)
		replies = append(replies, r)
		if r.kind == repAck || r.kind&repErr != 0 {
			return replies
		}
	}
}

func (p *peer) sendOption(opt uint32, data []byte) {
	p.t.Helper()
	b := be.AppendUint64(nil, magicOption)
	b = be.AppendUint32(b, opt)
	b = be.AppendUint32(b, uint32(len(data)))
	p.say(append(b, data...))
}

func (p *peer) reply(opt uint32) optionReply {
	p.t.Helper()
	head := p.hear(optionReplySize)
	if be.Uint64(head) != magicOptionReply || be.Uint32(head[8:]) != opt {
		p.t.Fatalf("bad reply header %x to option %d", head, opt)
	}
	return optionReply{be.Uint32(head[12:]), p.hear(int(be.Uint32(head[16:])))}
}

// text shows replies the way the tests' tables have them.
func text(replies []optionReply) string {
	var b bytes.Buffer
	for _, r := range replies {
		switch r.kind {
		case repAck:
			b.WriteString("ack")
		case repServer:
			f := fields{b: r.data}
			fmt.Fprintf(&b, "server %s (%s), ", f.str(), f.b)
		case repInfo:
			fmt.Fprintf(&b, "info %x, ", r.data)
		case repMetaContext:
			fmt.Fprintf(&b, "context %d %s, ", be.Uint32(r.data), r.data[4:])
		default:
			fmt.Fprintf(&b, "error %d %s", r.kind-repErr, r.data)
		}
	}
	return b.String()
}

// goData is the data of GO and INFO.
func goData(name string, infos ...uint16) []byte {
	b := appendString(nil, name)
	b = be.AppendUint16(b, uint16(len(infos)))
	for _, i := range infos {
		b = be.AppendUint16(b, i)
	}
	return b
}

// metaData is the data of LIST_META_CONTEXT and SET_META_CONTEXT.
func metaData(name string, queries ...string) []byte {
	b := appendString(nil, name)
	b = be.AppendUint32(b, uint32(len(queries)))
	for _, q := range queries {
		b = appendString(b, q)
	}
	return b
}

// start negotiates the transmission phase for the export "vol".
func (p *peer) start(structured bool, contexts ...string) {
	p.t.Helper()
	if structured {
		p.option(optStructuredReply, nil)
	}
	if len(contexts) > 0 {
		if r := p.option(optSetMeta, metaData("vol", contexts...)); len(r) != len(contexts)+1 {
			p.t.Fatalf("SET_META_CONTEXT %v: %s", contexts, text(r))
		}
	}
	if r := p.option(optGo, goData("vol")); r[len(r)-1].kind != repAck {
		p.t.Fatalf("GO: %s", text(r))
	}
}

// ask sends a request.
func (p *peer) ask(r request, payload ...string) {
	p.t.Helper()
	p.say(append(r.append(nil), strings.Join(payload, "")...))
}

// chunk is one message of a reply, simple or structured.
type chunk struct {
	simple bool
	flags  uint16
	kind   uint16
	cookie uint64
	errno  uint32 // of a simple reply or an error chunk
	data   []byte // of a chunk, without an error's number
}

// answer reads one message of a reply. The data of a simple reply to READ is
// left.
func (p *peer) answer() chunk {
	p.t.Helper()
	head := p.hear(simpleReplySize)
	switch be.Uint32(head) {
	case magicSimple:
		return chunk{simple: true, errno: be.Uint32(head[4:]), cookie: be.Uint64(head[8:])}
	case magicStructured:
		c := chunk{flags: be.Uint16(head[4:]), kind: be.Uint16(head[6:]), cookie: be.Uint64(head[8:])}
		c.data = p.hear(int(be.Uint32(p.hear(4))))
		if c.kind&chunkErrorBit != 0 {
			c.errno, c.data = be.Uint32(c.data), c.data[6:]
		}
		return c
	}
	p.t.Fatalf("bad reply magic %x", head[:4])
	return chunk{}
}

// expectErrno wants an error, or success for 0, as the whole answer.
func (p *peer) expectErrno(want uint32) {
	p.t.Helper()
	a := p.answer()
	if a.errno != want {
		p.t.Fatalf("errno %d %q, want %d", a.errno, a.data, want)
	}
	if !a.simple && a.flags&replyFlagDone == 0 {
		p.t.Fatalf("an error chunk that is not the last: %+v", a)
	}
}
