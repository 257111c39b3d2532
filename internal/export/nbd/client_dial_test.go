package nbd

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"cowl/internal/errs"
)

// liar is a server that says what a test wants it to say. Its export has 1 MiB.
type liar struct {
	t  testing.TB
	nc net.Conn
}

// hear reads exactly n bytes, fewer at the end of the connection.
func (l *liar) hear(n int) []byte {
	b := make([]byte, n)
	n, _ = io.ReadFull(l.nc, b)
	return b[:n]
}

func (l *liar) say(b []byte) { l.nc.Write(b) }

// option reads an option and answers it.
func (l *liar) option(replies ...optionReply) {
	head := l.hear(optionHeaderSize)
	if len(head) < optionHeaderSize {
		return
	}
	l.hear(int(be.Uint32(head[12:])))
	var b []byte
	for _, r := range replies {
		b = be.AppendUint64(b, magicOptionReply)
		b = append(b, head[8:12]...)
		b = be.AppendUint32(b, r.kind)
		b = be.AppendUint32(b, uint32(len(r.data)))
		b = append(b, r.data...)
	}
	l.say(b)
}

var (
	ack   = optionReply{kind: repAck}
	unsup = optionReply{kind: repErrUnsup}

	liarFlags = uint16(flagHasFlags | flagSendFlush | flagSendTrim | flagSendWriteZeroes)
)

// exportInfo is the reply to GO that describes an export.
func exportInfo(size uint64, flags uint16) optionReply {
	b := be.AppendUint16(nil, infoExport)
	b = be.AppendUint64(b, size)
	return optionReply{repInfo, be.AppendUint16(b, flags)}
}

func context1(id uint32, name string) optionReply {
	return optionReply{repMetaContext, append(be.AppendUint32(nil, id), name...)}
}

// handshake is an honest one.
func (l *liar) handshake(structured bool) {
	l.say(greeting())
	l.hear(4)
	if structured {
		l.option(ack)
		l.option(context1(0, contextAllocation), context1(9, contextDepth), ack)
	} else {
		l.option(unsup)
	}
	l.option(exportInfo(1<<20, liarFlags), ack)
}

// dialLiar opens what a server that runs script offers.
func dialLiar(t testing.TB, script func(l *liar)) (*Device, error) {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer theirs.Close()
		script(&liar{t, theirs})
	}()
	t.Cleanup(func() { ours.Close(); <-done })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	d, err := open(ctx, ours, "vol")
	if err == nil {
		t.Cleanup(func() { d.Close() })
	}
	return d, err
}

// Whatever a server answers to the handshake, the client understands it or
// says no.
func TestDialHostileServers(t *testing.T) {
	greet := func(l *liar) { l.say(greeting()); l.hear(4) }
	noSR := func(l *liar) { greet(l); l.option(unsup) }
	goWith := func(replies ...optionReply) func(l *liar) {
		return func(l *liar) { noSR(l); l.option(replies...) }
	}
	export := exportInfo(1<<20, liarFlags)
	sizes := func(a, b, c uint32) optionReply {
		d := be.AppendUint16(nil, infoBlockSize)
		d = be.AppendUint32(be.AppendUint32(be.AppendUint32(d, a), b), c)
		return optionReply{repInfo, d}
	}
	tests := []struct {
		name   string
		script func(l *liar)
		want   errs.Kind
	}{
		{"nothing", func(*liar) {}, errs.Other},
		{"half a greeting", func(l *liar) { l.say(greeting()[:9]) }, errs.Other},
		{"another protocol", func(l *liar) { l.say([]byte("SSH-2.0-OpenSSH_9.2p1 Debian")) }, errs.Corrupt},
		{"oldstyle", func(l *liar) {
			l.say(append(be.AppendUint64(nil, magicInit), make([]byte, 144)...))
		}, errs.Unsupported},
		{"newstyle, not fixed", func(l *liar) {
			b := greeting()
			b[17] = 0
			l.say(b)
		}, errs.Unsupported},
		{"no answer to an option", func(l *liar) { greet(l); l.hear(16) }, errs.Other},
		{"a bad reply", func(l *liar) { greet(l); l.hear(16); l.say(make([]byte, 20)) }, errs.Corrupt},
		{"a reply to another option", func(l *liar) {
			greet(l)
			l.hear(16)
			b := be.AppendUint64(nil, magicOptionReply)
			l.say(append(b, 0, 0, 0, 99, 0, 0, 0, 1, 0, 0, 0, 0))
		}, errs.Corrupt},
		{"an absurd reply", func(l *liar) {
			greet(l)
			l.hear(16)
			b := be.AppendUint64(nil, magicOptionReply)
			l.say(append(b, 0, 0, 0, 8, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff))
		}, errs.Corrupt},
		{"endless replies", func(l *liar) {
			noSR(l)
			var many []optionReply
			for range maxReplies + 1 {
				many = append(many, export)
			}
			l.option(many...)
		}, errs.Corrupt},
		{"contexts of no length", func(l *liar) { greet(l); l.option(ack); l.option(optionReply{kind: repMetaContext}, ack) }, errs.Corrupt},
		{"contexts of one id", func(l *liar) {
			greet(l)
			l.option(ack)
			l.option(context1(3, contextAllocation), context1(3, contextDepth), ack)
		}, errs.Corrupt},
		{"no such export", goWith(optionReply{repErrUnknown, []byte("no")}), errs.NotFound},
		{"policy", goWith(optionReply{kind: repErrPolicy}), errs.Denied},
		{"shutting down", goWith(optionReply{kind: repErrShutdown}), errs.Busy},
		{"TLS required", goWith(optionReply{kind: repErrTLSReqd}), errs.Unsupported},
		{"GO unknown", goWith(unsup), errs.Unsupported},
		{"no info", goWith(ack), errs.Corrupt},
		{"empty info", goWith(optionReply{kind: repInfo}, export, ack), errs.Corrupt},
		{"another reply", goWith(optionReply{repServer, make([]byte, 8)}, export, ack), errs.Corrupt},
		{"short info", goWith(optionReply{repInfo, make([]byte, 11)}, ack), errs.Corrupt},
		{"long info", goWith(optionReply{repInfo, make([]byte, 13)}, ack), errs.Corrupt},
		{"no flags", goWith(exportInfo(1<<20, 0), ack), errs.Corrupt},
		{"negative size", goWith(exportInfo(1<<63, liarFlags), ack), errs.Corrupt},
		{"short block size", goWith(optionReply{repInfo, []byte{0, 3, 0}}, export, ack), errs.Corrupt},
		{"no payload", goWith(export, sizes(1, 4096, 0), ack), errs.Corrupt},
		{"upside-down block size", goWith(export, sizes(4096, 512, 1<<20), ack), errs.Corrupt},
		{"aligned only", goWith(export, sizes(512, 4096, 1<<20), ack), errs.Unsupported},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := dialLiar(t, tt.script)
			if err == nil {
				d.Close()
				t.Fatal("opened")
			}
			if errs.KindOf(err) != tt.want || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v: kind %v, want %v", err, errs.KindOf(err), tt.want)
			}
		})
	}
}

// A server that says nothing holds a Dial up no longer than its context.
func TestDialSilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := open(ctx, ours, "vol"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Dial: %v", err)
		}
	})
}
