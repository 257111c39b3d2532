package nbd

import (
	"bytes"
	"errors"
	"iter"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
)

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
