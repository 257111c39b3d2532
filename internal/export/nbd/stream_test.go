package nbd

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cowl/internal/block/blocktest"
)

// streams returns both ends of a connection over a unix socket, read and written
// as the server does.
func streams(t *testing.T) (a, b stream, far net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	return newStream(near), newStream(far), far
}

// Replies of any sizes, more pieces than a system call takes, through a socket
// that is full most of the time: every byte arrives, in order, once.
func TestStreamWritesAll(t *testing.T) {
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
	a, b, far := streams(t)
	var want []byte
	var pieces net.Buffers
	for i := range 3000 {
		n := rng.IntN(3000)
		switch {
		case i%7 == 0:
			n = 0
		case i%997 == 0:
			n = 1 << 20
		}
		piece := make([]byte, n)
		for j := range piece {
			piece[j] = byte(rng.Uint32())
		}
		want = append(want, piece...)
		pieces = append(pieces, piece)
	}
	done := make(chan error)
	go func() {
		err := b.writeAll(pieces)
		for range 3 { // nothing, and again through the same memory
			err = errors.Join(err, b.writeAll(net.Buffers{nil, {}}), b.writeAll(net.Buffers{[]byte("more")}))
		}
		done <- errors.Join(err, far.Close())
	}()
	got, err := io.ReadAll(a)
	if err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if want = append(want, "moremoremore"...); !bytes.Equal(got, want) {
		t.Errorf("%d bytes arrived, or others than the %d that were sent", len(got), len(want))
	}
}

// A peer that has gone, and one that is silent for too long, end a stream's calls.
func TestStreamEnds(t *testing.T) {
	a, b, far := streams(t)
	if err := far.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("reading behind the deadline: %v", err)
	}
	if err := far.SetWriteDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := b.writeAll(net.Buffers{make([]byte, 1)}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("writing behind the deadline: %v", err)
	}
	if err := far.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := a.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("reading when the peer has gone: %d, %v", n, err)
	}
	if err := a.writeAll(net.Buffers{make([]byte, 1), make([]byte, 1)}); err == nil {
		t.Error("writing when the peer has gone succeeds")
	}
}

// What is not a socket is read and written by package net's means.
func TestStreamOfAPipe(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	go func() {
		newStream(far).writeAll(net.Buffers{[]byte("a"), nil, []byte("b")})
		far.Close()
	}()
	if got, err := io.ReadAll(newStream(near)); err != nil || string(got) != "ab" {
		t.Errorf("%q, %v", got, err)
	}
}
