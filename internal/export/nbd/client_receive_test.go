package nbd

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"cowl/internal/block"
)

// structured is a chunk as it goes on the wire.
func structured(flags, kind uint16, cookie uint64, data []byte) []byte {
	return append(appendChunk(nil, flags, kind, cookie, len(data)), data...)
}

// claiming is the header of a chunk of any length, also one that no int has.
func claiming(flags, kind uint16, length uint32) []byte {
	b := appendChunk(nil, flags, kind, 1, 0)
	return be.AppendUint32(b[:len(b)-4], length)
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
		{"more data than that", cmdRead, claiming(0, chunkData, 1<<32-1)},
		{"data twice", cmdRead, join(structured(0, chunkData, 1, join(u64(off), data)), structured(replyFlagDone, chunkData, 1, join(u64(off), data)))},
		{"half the data", cmdRead, structured(replyFlagDone, chunkData, 1, join(u64(off), data[1:]))},
		{"data cut short", cmdRead, structured(replyFlagDone, chunkData, 1, join(u64(off), data))[:500]},
		{"hole of a wrong length", cmdRead, structured(0, chunkHole, 1, u64(off))},
		{"hole over the end", cmdRead, structured(0, chunkHole, 1, join(u64(off), u32(length+1)))},
		{"hole of everything", cmdRead, structured(0, chunkHole, 1, join(u64(off), u32(1<<32-1)))},
		{"hole of nothing", cmdRead, structured(0, chunkHole, 1, join(u64(off), u32(0)))},
		{"error of no length", cmdWrite, structured(replyFlagDone, chunkError, 1, nil)},
		{"error of a mile", cmdWrite, claiming(replyFlagDone, chunkError, 1<<32-1)},
		{"error 0", cmdWrite, structured(replyFlagDone, chunkError, 1, make([]byte, 6))},
		{"error whose text lies", cmdWrite, structured(replyFlagDone, chunkError, 1, join(u32(5), []byte{0xff, 0xff}, []byte("short")))},
		{"status to a read", cmdRead, structured(replyFlagDone, chunkBlockStatus, 1, join(u32(0), u32(length), u32(0)))},
		{"status of no extents", cmdBlockStatus, structured(replyFlagDone, chunkBlockStatus, 1, u32(0))},
		{"status of half extents", cmdBlockStatus, structured(replyFlagDone, chunkBlockStatus, 1, join(u32(0), u32(length), u32(0), u32(1)))},
		{"status of empty extents", cmdBlockStatus, structured(replyFlagDone, chunkBlockStatus, 1, join(u32(0), u32(0), u32(0)))},
		{"status of another context", cmdBlockStatus, structured(replyFlagDone, chunkBlockStatus, 1, join(u32(5), u32(length), u32(0)))},
		{"status twice", cmdBlockStatus, bytes.Repeat(structured(0, chunkBlockStatus, 1, join(u32(0), u32(length), u32(0))), 2)},
		{"status of the depth alone", cmdBlockStatus, structured(replyFlagDone, chunkBlockStatus, 1, join(u32(9), u32(length), u32(0)))},
		{"status of all the world", cmdBlockStatus, claiming(0, chunkBlockStatus, 4+8<<28)},
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
