package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/mem"
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

// structured is a chunk as it goes on the wire.
func structured(flags, kind uint16, cookie uint64, data []byte) []byte {
	return append(appendChunk(nil, flags, kind, cookie, len(data)), data...)
}

func u64(n uint64) []byte { return be.AppendUint64(nil, n) }
func u32(n uint32) []byte { return be.AppendUint32(nil, n) }

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// A server that breaks the protocol in its replies is left at once: the call
// fails, those that follow fail, nothing hangs, nothing is written outside of
// the caller's buffer, and no memory is taken because a number says so.
func TestHostileReplies(t *testing.T) {
	const off, length = 4096, 1000 // of the call; its cookie is 1
	data := make([]byte, length)
	tests := []struct {
		name  string
		cmd   uint16
		reply []byte
	}{
		{"nothing", cmdRead, nil},
		{"bad magic", cmdRead, []byte("HTTP/1.1 400 Bad Request")},
		{"half a simple reply", cmdWrite, appendSimple(nil, 1, 0)[:9]},
		{"half a chunk", cmdRead, structured(0, chunkData, 1, nil)[:9]},
		{"somebody else's reply", cmdWrite, appendSimple(nil, 2, 0)},
		{"somebody else's chunk", cmdRead, structured(0, chunkNone, 2, nil)},
		{"a simple reply to a read", cmdRead, appendSimple(nil, 1, 0)},
		{"a simple reply to block status", cmdBlockStatus, appendSimple(nil, 1, 0)},
		{"nothing, and done", cmdRead, structured(replyFlagDone, chunkNone, 1, nil)},
		{"none with a payload", cmdWrite, structured(replyFlagDone, chunkNone, 1, []byte{1})},
		{"none that is not the last", cmdWrite, structured(0, chunkNone, 1, nil)},
		{"unknown type", cmdRead, structured(replyFlagDone, 99, 1, nil)},
		{"data to a write", cmdWrite, structured(replyFlagDone, chunkData, 1, join(u64(off), data))},
		{"data of no bytes", cmdRead, structured(0, chunkData, 1, u64(off))},
		{"data without an offset", cmdRead, structured(0, chunkData, 1, []byte{1})},
		{"data before the range", cmdRead, structured(0, chunkData, 1, join(u64(off-1), data))},
		{"data far before", cmdRead, structured(0, chunkData, 1, join(u64(0), data))},
		{"data behind the range", cmdRead, structured(0, chunkData, 1, join(u64(off+length), data))},
		{"data over the end", cmdRead, structured(0, chunkData, 1, join(u64(off+1), data))},
		{"data at the end of the world", cmdRead, structured(0, chunkData, 1, join(u64(1<<64-1), data))},
		{"more data than that", cmdRead, appendChunk(nil, 0, chunkData, 1, 1<<32-1)},
		{"data twice", cmdRead, join(structured(0, chunkData, 1, join(u64(off), data)), structured(replyFlagDone, chunkData, 1, join(u64(off), data)))},
		{"half the data", cmdRead, structured(replyFlagDone, chunkData, 1, join(u64(off), data[1:]))},
		{"data cut short", cmdRead, structured(replyFlagDone, chunkData, 1, join(u64(off), data))[:500]},
		{"hole of a wrong length", cmdRead, structured(0, chunkHole, 1, u64(off))},
		{"hole over the end", cmdRead, structured(0, chunkHole, 1, join(u64(off), u32(length+1)))},
		{"hole of everything", cmdRead, structured(0, chunkHole, 1, join(u64(off), u32(1<<32-1)))},
		{"hole of nothing", cmdRead, structured(0, chunkHole, 1, join(u64(off), u32(0)))},
		{"error of no length", cmdWrite, structured(replyFlagDone, chunkError, 1, nil)},
		{"error of a mile", cmdWrite, appendChunk(nil, replyFlagDone, chunkError, 1, 1<<32-1)},
		{"error 0", cmdWrite, structured(replyFlagDone, chunkError, 1, make([]byte, 6))},
		{"error whose text lies", cmdWrite, structured(replyFlagDone, chunkError, 1, join(u32(5), []byte{0xff, 0xff}, []byte("short")))},
		{"status to a read", cmdRead, structured(replyFlagDone, chunkBlockStatus, 1, join(u32(0), u32(length), u32(0)))},
		{"status of no extents", cmdBlockStatus, structured(replyFlagDone, chunkBlockStatus, 1, u32(0))},
		{"status of half extents", cmdBlockStatus, structured(replyFlagDone, chunkBlockStatus, 1, join(u32(0), u32(length), u32(0), u32(1)))},
		{"status of empty extents", cmdBlockStatus, structured(replyFlagDone, chunkBlockStatus, 1, join(u32(0), u32(0), u32(0)))},
		{"status of another context", cmdBlockStatus, structured(replyFlagDone, chunkBlockStatus, 1, join(u32(5), u32(length), u32(0)))},
		{"status twice", cmdBlockStatus, bytes.Repeat(structured(0, chunkBlockStatus, 1, join(u32(0), u32(length), u32(0))), 2)},
		{"status of the depth alone", cmdBlockStatus, structured(replyFlagDone, chunkBlockStatus, 1, join(u32(9), u32(length), u32(0)))},
		{"status of all the world", cmdBlockStatus, appendChunk(nil, 0, chunkBlockStatus, 1, 4+8<<28)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := dialLiar(t, func(l *liar) {
				l.handshake(true)
				l.hear(requestSize)
				if tt.cmd == cmdWrite {
					l.hear(length)
				}
				l.say(tt.reply)
			})
			if err != nil {
				t.Fatal(err)
			}
			frame := bytes.Repeat([]byte{'#'}, 3*length)
			switch tt.cmd {
			case cmdRead:
				_, err = d.ReadAt(frame[length:2*length], off)
			case cmdWrite:
				_, err = d.WriteAt(frame[:length], off)
			case cmdBlockStatus:
				for _, err = range d.Extents(off, length) {
				}
			}
			if err == nil {
				t.Error("no error")
			}
			if strings.Trim(string(frame[:length]), "#") != "" || strings.Trim(string(frame[2*length:]), "#") != "" {
				t.Error("written outside of the buffer")
			}
			if err := d.Flush(); err == nil || !strings.Contains(err.Error(), "lost") {
				t.Errorf("a call after it: %v", err)
			}
		})
	}
}

// What a server may legally do that ours does not.
func TestForeignReplies(t *testing.T) {
	const off, length = 4096, 1000
	want := bytes.Repeat([]byte("0123456789"), length/10)
	clear(want[300:400])
	at := func(from, to int) []byte { return join(u64(uint64(off+from)), want[from:to]) }
	hole := join(u64(off+300), u32(100))
	failure := join(u32(nbdEIO), []byte{0, 5}, []byte("ouch!"))

	tests := []struct {
		name  string
		reply []byte
		want  string // of the error
	}{
		{"in any order", join(structured(0, chunkData, 1, at(700, 1000)), structured(0, chunkHole, 1, hole),
			structured(0, chunkData, 1, at(0, 300)), structured(replyFlagDone, chunkData, 1, at(400, 700))), ""},
		{"done without data", join(structured(0, chunkData, 1, at(0, 1000)), structured(replyFlagDone, chunkNone, 1, nil)), ""},
		{"an error at last", join(structured(0, chunkData, 1, at(0, 1000)), structured(replyFlagDone, chunkError, 1, failure)), "nbd read at 4096: server: ouch!"},
		{"an error at first", join(structured(0, chunkErrorBit+2, 1, join(failure, u64(off+3))), structured(0, chunkErrorBit+77, 1, join(u32(28), []byte{0, 0})),
			structured(replyFlagDone, chunkData, 1, at(0, 10))), "nbd read at 4096: server: ouch!"},
		{"a simple error", appendSimple(nil, 1, nbdESHUTDOWN), "nbd read at 4096: server: server is shutting down"},
		{"an error that is none of the protocol's", appendSimple(nil, 1, 4711), "nbd read at 4096: server: unknown error"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := dialLiar(t, func(l *liar) {
				l.handshake(true)
				l.hear(requestSize)
				l.say(tt.reply)
				l.hear(requestSize)
				l.say(appendSimple(nil, 2, 0))
				l.hear(requestSize) // the farewell
			})
			if err != nil {
				t.Fatal(err)
			}
			got := bytes.Repeat([]byte{'#'}, length)
			_, err = d.ReadAt(got, off)
			if tt.want == "" && (err != nil || !bytes.Equal(got, want)) {
				t.Errorf("%v, content right: %v", err, bytes.Equal(got, want))
			}
			if tt.want != "" && (err == nil || err.Error() != tt.want) {
				t.Errorf("error %v, want %s", err, tt.want)
			}
			if err := d.Flush(); err != nil {
				t.Errorf("the connection did not survive: %v", err)
			}
		})
	}
}

// Status that goes further than it was asked for, in one context less far than
// in the other.
func TestForeignStatus(t *testing.T) {
	d, err := dialLiar(t, func(l *liar) {
		l.handshake(true)
		l.hear(requestSize)
		l.say(structured(0, chunkBlockStatus, 1, join(u32(9), u32(100), u32(1), u32(100), u32(3), u32(1<<31), u32(2))))
		l.say(structured(replyFlagDone, chunkBlockStatus, 1, join(u32(0), u32(150), u32(0), u32(100), u32(2))))
		l.hear(requestSize)
		l.say(structured(0, chunkBlockStatus, 2, join(u32(9), u32(1<<32-1), u32(0))))
		l.say(structured(replyFlagDone, chunkBlockStatus, 2, join(u32(0), u32(1<<32-1), u32(3))))
		l.hear(requestSize)
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []block.Extent
	for e, err := range d.Extents(1000, 500) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	want := []block.Extent{
		{Off: 1000, Len: 100},
		{Off: 1100, Len: 50, Depth: 2},
		{Off: 1150, Len: 50, Depth: 2, Kind: block.Zero},
		{Off: 1200, Len: 50, Depth: 1, Kind: block.Zero},
		{Off: 1250, Len: 250, Kind: block.Hole},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("extents\n%+v, want\n%+v", got, want)
	}
}

// A server may answer a write before it has read it all, and the caller gets
// its buffer back only when the client is done with it; the race detector
// watches.
func TestEarlyReplies(t *testing.T) {
	d, err := dialLiar(t, func(l *liar) {
		l.handshake(true)
		l.say(appendSimple(nil, 1, 0)) // no reply to anything yet
	})
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 1<<20)
	d.WriteAt(p, 0)
	clear(p)
	if err := d.Flush(); err == nil {
		t.Error("no error")
	}

	d, err = dialLiar(t, func(l *liar) {
		l.handshake(true)
		l.hear(requestSize)
		l.say(appendSimple(nil, 1, 0))
		l.hear(len(p))
		l.hear(requestSize)
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt(p, 0); err != nil {
		t.Error(err)
	}
	clear(p)
}

// A plain server without structured replies, block status, trim or zeroes
// still makes a device.
func TestPlainServer(t *testing.T) {
	content := mem.New(1 << 20)
	liarFlags := uint16(flagHasFlags | flagSendFlush)
	d, err := dialLiar(t, func(l *liar) {
		l.say(greeting())
		l.hear(4)
		l.option(unsup)
		l.option(exportInfo(1<<20, liarFlags), ack)
		for {
			r, ok := decodeRequest(append(l.hear(requestSize), make([]byte, requestSize)...))
			if !ok || r.cmd == cmdDisconnect {
				return
			}
			reply := appendSimple(nil, r.cookie, 0)
			switch r.cmd {
			case cmdRead:
				b := make([]byte, r.length)
				content.ReadAt(b, int64(r.off))
				reply = append(reply, b...)
			case cmdWrite:
				content.WriteAt(l.hear(int(r.length)), int64(r.off))
			case cmdFlush:
			default:
				reply = appendSimple(nil, r.cookie, nbdEINVAL)
			}
			l.say(reply)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if d.Caps() != (block.Caps{BlockSize: 512}) {
		t.Errorf("caps %+v", d.Caps())
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	_, err = d.WriteAt([]byte("hello, world"), 5)
	check(err)
	check(d.WriteZeroes(10, 7))
	check(d.Discard(0, 4096))
	check(d.Flush())
	got := make([]byte, 20)
	_, err = d.ReadAt(got, 0)
	check(err)
	if want := "\x00\x00\x00\x00\x00hello\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"; string(got) != want {
		t.Errorf("read %q, want %q", got, want)
	}
	for e, err := range d.Extents(3, 100) {
		check(err)
		if e != (block.Extent{Off: 3, Len: 100}) {
			t.Errorf("extent %+v", e)
		}
	}
}

// A server without a flush cannot promise anything, and is not trusted to.
func TestNoFlush(t *testing.T) {
	for _, flags := range []uint16{flagHasFlags, flagHasFlags | flagReadOnly} {
		d, err := dialLiar(t, func(l *liar) {
			l.say(greeting())
			l.hear(4)
			l.option(unsup)
			l.option(exportInfo(1<<20, flags), ack)
			l.hear(requestSize)
		})
		if err != nil {
			t.Fatal(err)
		}
		err = d.Flush()
		if writable := flags&flagReadOnly == 0; writable != errs.Is(err, errs.Unsupported) || !writable && err != nil {
			t.Errorf("flags %#x: %v", flags, err)
		}
		d.Close()
	}
}

// Kinds of errors cross the wire, with their texts.
func TestErrorsCross(t *testing.T) {
	for in, out := range map[errs.Kind]errs.Kind{
		errs.NoSpace:     errs.NoSpace,
		errs.Conflict:    errs.Conflict,
		errs.Denied:      errs.Conflict,
		errs.Usage:       errs.Usage,
		errs.Corrupt:     errs.Other,
		errs.Unsupported: errs.Other,
		errs.Other:       errs.Other,
	} {
		bad := errs.E(in, "the reason")
		dev := &hooked{
			Device:  mem.New(1 << 20),
			read:    func([]byte, int64) (int, error) { return 0, bad },
			write:   func([]byte, int64) (int, error) { return 0, bad },
			flush:   func() error { return bad },
			discard: func(int64, int64) error { return bad },
			zeroes:  func(int64, int64) error { return bad },
			extents: func(int64, int64) iter.Seq2[block.Extent, error] { return block.NoExtents(bad) },
		}
		d, err := open(t.Context(), pipe(t, NewServer(newShelf().with("vol", dev), nil)), "vol")
		if err != nil {
			t.Fatal(err)
		}
		calls := map[string]func() error{
			"nbd read at 5":         func() error { _, err := d.ReadAt(make([]byte, 3), 5); return err },
			"nbd write at 5":        func() error { _, err := d.WriteAt(make([]byte, 3), 5); return err },
			"nbd flush":             d.Flush,
			"nbd discard at 5":      func() error { return d.Discard(5, 3) },
			"nbd write zeroes at 5": func() error { return d.WriteZeroes(5, 3) },
			"nbd block status at 5": func() (err error) {
				for _, err = range d.Extents(5, 3) {
				}
				return err
			},
		}
		for name, call := range calls {
			err := call()
			if want := name + ": server: the reason"; err == nil || err.Error() != want || errs.KindOf(err) != out {
				t.Errorf("%v: %v of kind %v, want %s of kind %v", in, err, errs.KindOf(err), want, out)
			}
		}
	}
}

// A daemon that hangs must not take its clients along: Close ends what is
// under way.
func TestCloseWithCallsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := dialLiar(t, func(l *liar) {
			l.handshake(true)
			for len(l.hear(1)) > 0 { // takes everything, says nothing
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				if _, err := d.ReadAt(make([]byte, 10), int64(i)); !errors.Is(err, errClosed) {
					t.Errorf("read: %v", err)
				}
			})
		}
		synctest.Wait()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if err := d.Flush(); !errors.Is(err, errClosed) {
			t.Errorf("flush after Close: %v", err)
		}
		if err := d.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}

// Nor may one that does not even take the farewell.
func TestCloseOfAStuckConnection(t *testing.T) {
	release := make(chan struct{})
	d, err := dialLiar(t, func(l *liar) {
		l.handshake(true)
		<-release
	})
	if err != nil {
		t.Fatal(err)
	}
	defer close(release)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if _, err := d.WriteAt(make([]byte, 1<<20), 0); err == nil {
				t.Error("a write that nobody took succeeded")
			}
		})
	}
	eventually(t, func() bool { return d.senders.Load() == 2 }) // one sends, two wait for it
	start := time.Now()
	d.Close()
	wg.Wait()
	if took := time.Since(start); took > patience {
		t.Errorf("Close took %v", took)
	}
}

// Requests longer than the server takes are split, and put together.
func TestLongRequests(t *testing.T) {
	const size = 2*maxPayload + 12345
	dev := mem.New(size)
	_, path := startServer(t, newShelf().with("vol", dev))
	d := dial(t, path, "vol")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	p := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(p)
	if n, err := d.WriteAt(p, 0); n != size || err != nil {
		t.Fatal(n, err)
	}
	got := make([]byte, size)
	if n, err := d.ReadAt(got, 0); n != size || err != nil || !bytes.Equal(got, p) {
		t.Fatal(n, err, bytes.Equal(got, p))
	}
}

// A volume of terabytes is more than a length on the wire can say.
func TestHugeSpans(t *testing.T) {
	const size = 3<<40 + 1
	dev := mem.New(size)
	dev.WriteAt([]byte("x"), 1<<40)
	_, path := startServer(t, newShelf().with("vol", dev))
	d := dial(t, path, "vol")
	var got []block.Extent
	for e, err := range d.Extents(0, size) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	if len(got) != 3 || got[1] != (block.Extent{Off: 1 << 40, Len: 4096}) || got[2].End() != size {
		t.Errorf("extents %+v", got)
	}
	if err := d.WriteZeroes(0, size); err != nil {
		t.Fatal(err)
	}
	if err := d.Discard(0, size); err != nil {
		t.Fatal(err)
	}
	p := []byte("y")
	if _, err := d.ReadAt(p, 1<<40); err != nil || p[0] != 0 {
		t.Errorf("read %q, %v", p, err)
	}
}
