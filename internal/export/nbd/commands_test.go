package nbd

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
)

// serveVol returns a peer that has opened a device as "vol".
func serveVol(t testing.TB, dev block.Device, structured bool, contexts ...string) *peer {
	t.Helper()
	p := newPeer(t, NewServer(newShelf().with("vol", dev), nil))
	p.start(structured, contexts...)
	return p
}

// Requests that a careless or hostile client sends: each has its error number,
// and none changes the device or costs the connection.
func TestRefusedRequests(t *testing.T) {
	const size = 1 << 20
	tests := []struct {
		name string
		r    request
		want uint32
	}{
		{"read beyond the end", request{cmd: cmdRead, off: size - 1, length: 2}, nbdEINVAL},
		{"read far beyond", request{cmd: cmdRead, off: 1<<64 - 1, length: 2}, nbdEINVAL},
		{"read with an offset that wraps", request{cmd: cmdRead, off: 1<<63 - 1, length: 2}, nbdEINVAL},
		{"read of too much", request{cmd: cmdRead, length: maxPayload + 1}, nbdEINVAL},
		{"read of everything", request{cmd: cmdRead, length: 1<<32 - 1}, nbdEINVAL},
		{"read with a flag of others", request{cmd: cmdRead, flags: cmdFlagReqOne, length: 1}, nbdEINVAL},
		{"write beyond the end", request{cmd: cmdWrite, off: size - 1, length: 2}, nbdENOSPC},
		{"write far beyond", request{cmd: cmdWrite, off: 1 << 63, length: 2}, nbdENOSPC},
		{"write of too much", request{cmd: cmdWrite, length: maxPayload + 1}, nbdEINVAL},
		{"write of much too much", request{cmd: cmdWrite, length: maxRefused}, nbdEINVAL},
		{"write with unknown flags", request{cmd: cmdWrite, flags: 1 << 15, length: 100}, nbdEINVAL},
		{"trim beyond the end", request{cmd: cmdTrim, off: size, length: 1}, nbdEINVAL},
		{"zeroes beyond the end", request{cmd: cmdWriteZeroes, off: size, length: 1}, nbdENOSPC},
		{"cache beyond the end", request{cmd: cmdCache, off: size, length: 1}, nbdEINVAL},
		{"block status without a context", request{cmd: cmdBlockStatus, length: 1}, nbdEINVAL},
		{"resize", request{cmd: 8}, nbdEINVAL},
		{"unknown command", request{cmd: 1<<16 - 1}, nbdEINVAL},
	}
	for _, structured := range []bool{false, true} {
		dev := mem.New(size)
		p := serveVol(t, dev, structured)
		for i, tt := range tests {
			t.Run(fmt.Sprintf("%s structured %v", tt.name, structured), func(t *testing.T) {
				tt.r.cookie = uint64(i) + 1<<40
				sent := make(chan struct{})
				go func() { // the server answers before it has read the payload
					defer close(sent)
					p.nc.Write(tt.r.append(nil))
					if tt.r.cmd == cmdWrite {
						io.CopyN(p.nc, endless{}, int64(tt.r.length))
					}
				}()
				a := p.answer()
				<-sent
				if a.errno != tt.want || a.cookie != tt.r.cookie {
					t.Errorf("errno %d for %#x, want %d for %#x", a.errno, a.cookie, tt.want, tt.r.cookie)
				}
				if structured != (len(a.data) > 0) {
					t.Errorf("text %q", a.data)
				}
				p.ask(request{cmd: cmdFlush})
				p.expectErrno(0)
			})
		}
		for e := range dev.Extents(0, size) {
			if e.Kind != block.Hole {
				t.Errorf("something was written: %+v", e)
			}
		}
	}
}

// endless reads as any number of x.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// A WRITE that no client in its right mind sends is not read to its end.
func TestHugeWrite(t *testing.T) {
	p := serveVol(t, mem.New(1<<40), true)
	p.ask(request{cmd: cmdWrite, length: 1<<32 - 1})
	p.expectErrno(nbdEINVAL)
	p.expectEnd()
}

// A stream that ends or goes wrong anywhere within a request ends the
// connection, gives the export back, and does half of nothing.
func TestBrokenStreams(t *testing.T) {
	dev := mem.New(1 << 20)
	shelf := newShelf().with("vol", dev)
	whole := append(request{cmd: cmdWrite, length: 64 << 10}.append(nil), make([]byte, 64<<10)...)
	tests := map[string][]byte{
		"nothing":           nil,
		"half a header":     whole[:10],
		"header only":       whole[:requestSize],
		"half a payload":    whole[:40<<10],
		"half a small one":  append(request{cmd: cmdWrite, length: 4096}.append(nil), 1, 2, 3),
		"half a refused":    append(request{cmd: cmdWrite, off: 1 << 30, length: 4096}.append(nil), 1, 2, 3),
		"bad magic":         append(slices.Clone(whole), "GET / HTTP/1.1\r\nHost: somewhere\r\n"...),
		"disconnect, more":  append(request{cmd: cmdDisconnect}.append(nil), whole...),
		"a reply's header":  append(appendSimple(nil, 1, 0), make([]byte, 12)...),
		"half a disconnect": request{cmd: cmdDisconnect}.append(nil)[:27],
	}
	for name, bytes := range tests {
		t.Run(name, func(t *testing.T) {
			done := make(chan error)
			s := NewServer(shelf, nil)
			p := newPeer(t, s)
			p.start(true)
			go func() {
				_, err := io.Copy(io.Discard, p.nc)
				done <- err
			}()
			p.nc.Write(bytes)
			p.nc.Close()
			<-done
			if err := s.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := shelf.open("vol"); n != 0 {
				t.Errorf("export still has %d users", n)
			}
		})
	}
}

// Errors reach the client as what they are, whatever the command.
func TestErrno(t *testing.T) {
	tests := []struct {
		err  error
		want uint32
	}{
		{errs.E(errs.NoSpace, "full"), nbdENOSPC},
		{errs.E(errs.Conflict, "merging"), nbdEPERM},
		{block.ErrReadOnly, nbdEPERM},
		{errs.E(errs.Denied, "no"), nbdEPERM},
		{errs.E(errs.Usage, "what"), nbdEINVAL},
		{errs.E(errs.Corrupt, "bad"), nbdEIO},
		{errs.E(errs.Unsupported, "never"), nbdEIO}, // ENOTSUP is for FAST_ZERO alone
		{errors.New(strings.Repeat("ä", 5000)), nbdEIO},
	}
	for _, tt := range tests {
		bad := tt.err
		dev := &hooked{Device: mem.New(1 << 20)}
		dev.read = func([]byte, int64) (int, error) { return 0, bad }
		dev.write = func([]byte, int64) (int, error) { return 0, bad }
		dev.flush = func() error { return bad }
		dev.discard = func(int64, int64) error { return bad }
		dev.zeroes = func(int64, int64) error { return bad }
		dev.extents = func(int64, int64) iter.Seq2[block.Extent, error] { return block.NoExtents(bad) }
		for _, structured := range []bool{false, true} {
			var contexts []string
			cmds := []uint16{cmdRead, cmdWrite, cmdFlush, cmdTrim, cmdCache, cmdWriteZeroes}
			if structured {
				contexts = []string{contextAllocation}
				cmds = append(cmds, cmdBlockStatus)
			}
			p := serveVol(t, dev, structured, contexts...)
			for _, length := range []uint32{1, inlineSize + 1, 500 << 10} {
				for _, cmd := range cmds {
					payload := ""
					if cmd == cmdWrite {
						payload = strings.Repeat("x", int(length))
					}
					p.ask(request{cmd: cmd, length: length}, payload)
					a := p.answer()
					if a.errno != tt.want || len(a.data) > 0 != structured {
						t.Errorf("command %d, %v: errno %d %q, want %d", cmd, tt.err, a.errno, a.data, tt.want)
					}
				}
			}
		}
	}
}

// A read-only export takes no change, and says so.
func TestReadOnly(t *testing.T) {
	dev := mem.New(1 << 20)
	dev.WriteAt([]byte("keep"), 0)
	caps := dev.Caps()
	caps.ReadOnly = true
	p := serveVol(t, &hooked{Device: dev, caps: &caps}, true)
	p.ask(request{cmd: cmdWrite, length: 4}, "lose")
	p.expectErrno(nbdEPERM)
	p.ask(request{cmd: cmdWriteZeroes, length: 4})
	p.expectErrno(nbdEPERM)
	p.ask(request{cmd: cmdTrim, length: 4096})
	p.expectErrno(nbdEPERM)
	p.ask(request{cmd: cmdRead, length: 4})
	if a := p.answer(); string(a.data[8:]) != "keep" {
		t.Errorf("read %q", a.data[8:])
	}
}

// What the flags of WRITE and WRITE_ZEROES do to the device, and that FUA's
// flush comes before the reply.
func TestWriteFlags(t *testing.T) {
	tests := []struct {
		name   string
		r      request
		zeroes bool // the device has cheap zeroes
		errno  uint32
		want   string // what the device was asked to do
	}{
		{"write", request{cmd: cmdWrite, length: 4}, true, 0, "write 4"},
		{"write FUA", request{cmd: cmdWrite, flags: cmdFlagFUA, length: 4}, true, 0, "write 4, flush"},
		{"trim FUA", request{cmd: cmdTrim, flags: cmdFlagFUA, length: 4096}, true, 0, "discard 4096, flush"},
		{"flush FUA", request{cmd: cmdFlush, flags: cmdFlagFUA}, true, 0, "flush"},
		{"read FUA", request{cmd: cmdRead, flags: cmdFlagFUA, length: 1}, true, 0, "read 1"},
		{"zeroes", request{cmd: cmdWriteZeroes, length: 1 << 22}, true, 0, "zeroes 4194304"},
		{"zeroes FUA", request{cmd: cmdWriteZeroes, flags: cmdFlagFUA, length: 9}, true, 0, "zeroes 9, flush"},
		{"zeroes fast", request{cmd: cmdWriteZeroes, flags: cmdFlagFastZero, length: 9}, true, 0, "zeroes 9"},
		{"zeroes fast where they are not", request{cmd: cmdWriteZeroes, flags: cmdFlagFastZero, length: 9}, false, nbdENOTSUP, ""},
		{"zeroes slow where they are not fast", request{cmd: cmdWriteZeroes, length: 9}, false, 0, "zeroes 9"},
		{"zeroes without a hole", request{cmd: cmdWriteZeroes, flags: cmdFlagNoHole, length: 3 << 20}, true, 0, "write 1048576, write 1048576, write 1048576"},
		{"zeroes without a hole, fast", request{cmd: cmdWriteZeroes, flags: cmdFlagNoHole | cmdFlagFastZero, length: 9}, true, nbdENOTSUP, ""},
		{"cache", request{cmd: cmdCache, length: 3<<20 + 5}, true, 0, "read 1048576, read 1048576, read 1048576, read 5"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var did []string
			did1 := func(name string, n int64) { did = append(did, fmt.Sprint(name, " ", n)) }
			dev := &hooked{Device: mem.New(1 << 23)}
			dev.caps = &block.Caps{Discard: true, Zeroes: tt.zeroes, BlockSize: 512}
			dev.read = func(p []byte, _ int64) (int, error) { did1("read", int64(len(p))); return len(p), nil }
			dev.write = func(p []byte, _ int64) (int, error) { did1("write", int64(len(p))); return len(p), nil }
			dev.discard = func(_, n int64) error { did1("discard", n); return nil }
			dev.zeroes = func(_, n int64) error { did1("zeroes", n); return nil }
			dev.flush = func() error { did = append(did, "flush"); return nil }
			p := serveVol(t, dev, false)
			payload := ""
			if tt.r.cmd == cmdWrite {
				payload = strings.Repeat("x", int(tt.r.length))
			}
			p.ask(tt.r, payload)
			p.expectErrno(tt.errno) // did is complete before the reply, or the race detector says so
			if got := strings.Join(did, ", "); got != tt.want {
				t.Errorf("device did %q, want %q", got, tt.want)
			}
		})
	}
}

// A failed FUA flush is a failed write.
func TestFUAFails(t *testing.T) {
	dev := &hooked{Device: mem.New(1 << 20), flush: func() error { return io.ErrUnexpectedEOF }}
	p := serveVol(t, dev, true)
	p.ask(request{cmd: cmdWrite, flags: cmdFlagFUA, length: 4}, "data")
	p.expectErrno(nbdEIO)
}

// The size is the device's present one: after an extension clients may use it
// all without opening the export again.
func TestGrownExport(t *testing.T) {
	big := mem.New(1 << 20)
	size := int64(4096)
	dev := &hooked{Device: big, size: func() int64 { return size }}
	p := serveVol(t, dev, false)
	p.ask(request{cmd: cmdWrite, off: 4096, length: 1}, "x")
	p.expectErrno(nbdENOSPC)
	size = 1 << 20
	p.ask(request{cmd: cmdWrite, off: 4096, length: 1}, "x")
	p.expectErrno(0)
}

// Requests of no bytes are nobody's error.
func TestEmptyRequests(t *testing.T) {
	for _, structured := range []bool{false, true} {
		p := serveVol(t, mem.New(4096), structured)
		for _, cmd := range []uint16{cmdRead, cmdWrite, cmdTrim, cmdCache, cmdWriteZeroes} {
			p.ask(request{cmd: cmd, off: 4096})
			p.expectErrno(0)
		}
	}
}
