package nbd

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
)

// slow is a device on which everything takes a millisecond, as on a disk.
func slow(size int64) *hooked {
	dev := mem.New(size)
	return &hooked{
		Device: dev,
		read: func(p []byte, off int64) (int, error) {
			time.Sleep(time.Millisecond)
			return dev.ReadAt(p, off)
		},
		write: func(p []byte, off int64) (int, error) {
			time.Sleep(time.Millisecond)
			return dev.WriteAt(p, off)
		},
	}
}

// A disk that takes its time must be kept busy: requests that arrive together
// are served together, large ones from the start, small ones once it shows
// that they are slow.
func TestParallelRequests(t *testing.T) {
	for _, length := range []uint32{4096, 64 << 10} {
		for _, cmd := range []uint16{cmdRead, cmdWrite} {
			synctest.Test(t, func(t *testing.T) {
				p := serveVol(t, slow(1<<20), false)
				start := time.Now()
				const requests = 10 * maxWorkers
				go func() {
					for range requests {
						b := request{cmd: cmd, length: length}.append(nil)
						if cmd == cmdWrite {
							b = append(b, make([]byte, length)...)
						}
						p.nc.Write(b)
					}
				}()
				for range requests {
					p.expectErrno(0)
					if cmd == cmdRead {
						p.hear(int(length))
					}
				}
				// Fake time: 10 rounds, and what is served inline first.
				if took := time.Since(start); took > 15*time.Millisecond {
					t.Errorf("command %d of %d bytes: %d requests of 1 ms took %v", cmd, length, requests, took)
				}
			})
		}
	}
}

// Replies need not come in order: one that is stuck does not hold up others.
func TestStuckRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		dev := &hooked{Device: mem.New(1 << 20), flush: func() error { <-stuck; return nil }}
		p := serveVol(t, dev, false)
		p.ask(request{cmd: cmdFlush, cookie: 1})
		for i := range uint64(100) {
			p.ask(request{cmd: cmdWrite, cookie: 2 + i, length: 1}, "x")
			if a := p.answer(); a.cookie != 2+i {
				t.Fatalf("reply to %d, want %d", a.cookie, 2+i)
			}
		}
		close(stuck)
		if a := p.answer(); a.cookie != 1 {
			t.Fatalf("reply to %d, want the flush", a.cookie)
		}
	})
}

// Writes that wait for space, however many, keep nobody from reading and
// flushing on the same connection.
func TestWritesThatWait(t *testing.T) {
	for _, length := range []uint32{1, inlineSize + 1} {
		synctest.Test(t, func(t *testing.T) {
			const writes = 200
			release := make(chan struct{})
			dev := &hooked{Device: mem.New(1 << 20), caps: &block.Caps{BlockSize: 512, Waits: true}}
			dev.write = func(p []byte, _ int64) (int, error) { <-release; return len(p), nil }
			p := serveVol(t, dev, false)
			for i := range uint64(writes) {
				p.ask(request{cmd: cmdWrite, cookie: 100 + i, length: length}, strings.Repeat("x", int(length)))
			}
			for cookie, cmd := range []uint16{cmdFlush, cmdFlush, cmdFlush} {
				p.ask(request{cmd: cmd, cookie: uint64(cookie)})
				if a := p.answer(); a.cookie != uint64(cookie) {
					t.Fatalf("reply to %d, want %d", a.cookie, cookie)
				}
			}
			close(release)
			for range writes {
				if a := p.answer(); a.cookie < 100 || a.errno != 0 {
					t.Fatalf("%+v", a)
				}
			}
		})
	}
}

// A client that asks and asks and takes no answers costs bounded memory, and
// gets all its answers when it comes round.
func TestClientThatDoesNotRead(t *testing.T) {
	for _, length := range []uint32{0, 512, 32 << 10, 1 << 20, maxPayload} {
		for _, cmd := range []uint16{cmdRead, cmdTrim} {
			synctest.Test(t, func(t *testing.T) {
				var served atomic.Int64
				dev := &hooked{Device: mem.New(maxPayload)}
				dev.caps = &block.Caps{Discard: true, BlockSize: 512}
				dev.read = func(p []byte, _ int64) (int, error) { served.Add(1); return len(p), nil }
				dev.discard = func(int64, int64) error { served.Add(1); return nil }
				p := serveVol(t, dev, false)

				const most = maxHeld/replyRoom + readBuffer/requestSize + 1000
				sent := make(chan int, 1)
				stop := make(chan struct{})
				go func() {
					n := 0
					for b := (request{cmd: cmd, length: length}).append(nil); n < most && !closed(stop); n++ {
						p.nc.Write(b)
					}
					p.nc.Write(request{cmd: cmdDisconnect}.append(nil))
					sent <- n
				}()
				synctest.Wait() // the server takes no more, or has taken all
				held := served.Load() * int64(replyRoom)
				if cmd == cmdRead {
					held = served.Load() * int64(bufferSizes[bufferClass(int(length))]+replyRoom)
				}
				if held > maxHeld || served.Load() == 0 {
					t.Errorf("command %d of %d bytes: server holds %d bytes for %d replies", cmd, length, held, served.Load())
				}
				close(stop)
				var got int
				for head := make([]byte, simpleReplySize); ; got++ {
					if _, err := io.ReadFull(p.nc, head); err != nil {
						break
					}
					if cmd == cmdRead {
						io.CopyN(io.Discard, p.nc, int64(length))
					}
				}
				if want := <-sent; got != want {
					t.Errorf("%d replies to %d requests", got, want)
				}
			})
		}
	}
}

// closed tells whether a channel is closed.
func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Nor does such a client keep its connection, and its export, when it breaks
// the protocol or says that it leaves.
func TestClientThatLeavesWithoutReading(t *testing.T) {
	for _, last := range [][]byte{make([]byte, requestSize), request{cmd: cmdDisconnect}.append(nil)} {
		synctest.Test(t, func(t *testing.T) {
			shelf := newShelf().with("vol", mem.New(1<<20))
			s := NewServer(shelf, nil)
			p := newPeer(t, s)
			p.start(true)
			p.nc.SetDeadline(time.Time{})
			p.ask(request{cmd: cmdRead, length: 1 << 20})
			p.say(last)
			start := time.Now()
			s.running.Wait()
			if took := time.Since(start); took != drainTimeout {
				t.Errorf("it took %v", took)
			}
			if n := shelf.open("vol"); n != 0 {
				t.Errorf("export still has %d users", n)
			}
		})
	}
}

// A peer that says nothing, or half of something, is not waited for forever
// while nobody knows what it wants.
func TestSilentHandshake(t *testing.T) {
	for _, said := range [][]byte{nil, {0, 0, 0, 3}, append([]byte{0, 0, 0, 3}, "IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x10half"...)} {
		synctest.Test(t, func(t *testing.T) {
			ours, theirs := net.Pipe()
			s := NewServer(newShelf(), nil)
			done := make(chan error)
			start := time.Now()
			go func() { done <- s.ServeConn(theirs) }()
			io.ReadFull(ours, make([]byte, greetingSize))
			ours.Write(said)
			if err := <-done; err == nil {
				t.Error("no error")
			}
			if took := time.Since(start); took > optionTimeout {
				t.Errorf("dropped after %v", took)
			}
			ours.Close()
		})
	}
}

// In the transmission a client may think as long as it likes: a mounted disk
// can be idle for days.
func TestIdleClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serveVol(t, mem.New(4096), false)
		p.nc.SetDeadline(time.Time{})
		time.Sleep(1000 * time.Hour)
		p.ask(request{cmd: cmdFlush})
		p.expectErrno(0)
	})
}

// Shutdown lets what has arrived finish, and its replies go out.
func TestShutdownDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		dev := mem.New(1 << 20)
		stuck := &hooked{Device: dev, write: func(p []byte, off int64) (int, error) {
			<-release
			return dev.WriteAt(p, off)
		}}
		shelf := newShelf().with("vol", stuck)
		s := NewServer(shelf, nil)
		p, idle, shaking := newPeer(t, s), newPeer(t, s), newPeer(t, s)
		p.start(true)
		idle.start(true)
		const length = 64 << 10
		for i := range uint64(3) {
			p.ask(request{cmd: cmdWrite, cookie: i, off: i * length, length: length}, string(make([]byte, length)))
		}
		synctest.Wait()

		done := make(chan error)
		go func() { done <- s.Shutdown(context.Background()) }()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("Shutdown returned %v with requests in flight", err)
		default:
		}
		idle.expectEnd()
		shaking.expectEnd()
		if err := s.ServeConn(idleConn(t)); !errs.Is(err, errs.Busy) {
			t.Errorf("a new client: %v", err)
		}
		close(release)
		for range 3 {
			p.expectErrno(0)
		}
		p.expectEnd()
		if err := <-done; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if n := shelf.open("vol"); n != 0 {
			t.Errorf("export still has %d users", n)
		}
	})
}

func idleConn(t *testing.T) net.Conn {
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	return a
}

// Shutdown does not wait longer than it is told: not for a client that does not
// take its replies, and not for a device that hangs.
func TestShutdownCutsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		dev := &hooked{Device: mem.New(1 << 20), flush: func() error { <-release; return nil }}
		s := NewServer(newShelf().with("vol", dev), nil)
		deaf, hung, quiet := newPeer(t, s), newPeer(t, s), newPeer(t, s)
		for _, p := range []*peer{deaf, hung, quiet} {
			p.start(true)
		}
		deaf.ask(request{cmd: cmdRead, length: 1 << 20})
		hung.ask(request{cmd: cmdFlush})

		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start := time.Now()
		err := s.Shutdown(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("Shutdown: %v after %v", err, time.Since(start))
		}
		if want := "shut down NBD server: 2 connections cut off: context deadline exceeded"; err.Error() != want {
			t.Errorf("Shutdown: %v, want %s", err, want)
		}
		close(release)
	})
}

// Options that come while the server shuts down are refused politely where the
// client is quick enough.
func TestShutdownInHandshake(t *testing.T) {
	s := NewServer(twoExports(), nil)
	h := handshake{c: newConn(s, idleConn(t)), exports: s.exports}
	s.closing = true
	h.answer(optGo, goData("vol"))
	if kind := be.Uint32(h.out[12:]); kind != repErrShutdown {
		t.Errorf("reply %#x to GO", kind)
	}
	if _, err := h.answer(optExportName, []byte("vol")); !errs.Is(err, errs.Busy) {
		t.Errorf("EXPORT_NAME: %v", err)
	}
}

// A handshake that is stopped just before it waits for the next option must not
// get another half a minute.
func TestStopBeforeExpect(t *testing.T) {
	nc := idleConn(t)
	c := newConn(NewServer(newShelf(), nil), nc)
	c.stop()
	c.expect(optionTimeout)
	if _, err := nc.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
}

// Thousands of connections are somebody's mistake, and not this machine's end.
func TestTooManyConnections(t *testing.T) {
	s := NewServer(twoExports(), nil)
	for range maxConns {
		newPeer(t, s)
	}
	if err := s.ServeConn(idleConn(t)); !errs.Is(err, errs.Busy) {
		t.Errorf("connection %d: %v", maxConns+1, err)
	}
}

// A listener that breaks ends Serve; one that is out of descriptors does not.
func TestAcceptErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		l := &listener{errors: []error{temporary{}, temporary{}, temporary{}, broken}}
		s := NewServer(twoExports(), nil)
		if err := s.Serve(l); !errors.Is(err, broken) {
			t.Errorf("Serve: %v", err)
		}
		if len(l.errors) != 0 {
			t.Errorf("%d errors left", len(l.errors))
		}
	})
}

// listener is one that only fails.
type listener struct {
	net.Listener
	errors []error
}

func (l *listener) Accept() (net.Conn, error) {
	err := l.errors[0]
	l.errors = l.errors[1:]
	return nil, err
}
func (l *listener) Close() error   { return nil }
func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: "x", Net: "unix"} }

type temporary struct{}

func (temporary) Error() string   { return "out of descriptors" }
func (temporary) Temporary() bool { return true }
