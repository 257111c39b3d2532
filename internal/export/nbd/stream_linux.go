package nbd

import (
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxVector is how many pieces one system call takes (the kernel's IOV_MAX).
const maxVector = 1024

// newStream returns a connection's bytes by the quickest way there is.
//
// Go tells its scheduler of every system call, since any may wait. After a
// moment with nothing to do that wakes the scheduler's monitor, a thread that then looks
// around every 20 µs: with a client that sends and waits in turn, a fifth of
// the server's processor time. Reading from a socket and writing to one never
// waits, so it is done without telling.
func newStream(nc net.Conn) stream {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return plainStream{nc}
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return plainStream{nc}
	}
	s := &socketStream{raw: raw}
	s.tryRead, s.tryWrite = s.readOnce, s.writeOnce
	return s
}

// socketStream is a stream over a socket, which is not blocking: package net
// has no others.
type socketStream struct {
	raw               syscall.RawConn
	tryRead, tryWrite func(fd uintptr) bool // made once: they would be allocated

	in struct { // the reader's
		p     []byte
		n     int
		errno syscall.Errno
	}
	out struct { // the writer's
		left  net.Buffers
		iov   []unix.Iovec
		errno syscall.Errno
	}
}

// Read implements io.Reader.
func (s *socketStream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.in.p, s.in.n, s.in.errno = p, 0, 0
	err := s.raw.Read(s.tryRead)
	s.in.p = nil
	switch {
	case err != nil:
		return 0, err
	case s.in.errno != 0:
		return 0, os.NewSyscallError("read", s.in.errno)
	case s.in.n == 0:
		return 0, io.EOF
	}
	return s.in.n, nil
}

// readOnce reports false if there is nothing to read yet.
func (s *socketStream) readOnce(fd uintptr) bool {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&s.in.p[0])), uintptr(len(s.in.p)))
		switch errno {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		case 0:
			s.in.n = int(n)
		}
		s.in.errno = errno
		return true
	}
}

// writeAll implements stream.
func (s *socketStream) writeAll(v net.Buffers) error {
	s.out.left, s.out.errno = v, 0
	err := s.raw.Write(s.tryWrite)
	s.out.left = nil
	clear(s.out.iov[:cap(s.out.iov)]) // they would keep buffers alive
	if err == nil && s.out.errno != 0 {
		err = os.NewSyscallError("writev", s.out.errno)
	}
	return err
}

// writeOnce writes what is left, and reports false if the socket takes no more now.
func (s *socketStream) writeOnce(fd uintptr) bool {
	for s.skipWritten(0); len(s.out.left) > 0; {
		s.out.iov = s.out.iov[:0]
		for _, b := range s.out.left[:min(len(s.out.left), maxVector)] {
			v := unix.Iovec{Base: unsafe.SliceData(b)}
			v.SetLen(len(b))
			s.out.iov = append(s.out.iov, v)
		}
		n, _, errno := unix.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&s.out.iov[0])), uintptr(len(s.out.iov)))
		switch errno {
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		case 0:
			s.skipWritten(int(n))
		default:
			s.out.errno = errno
			return true
		}
	}
	return true
}

// skipWritten takes n bytes, and pieces that are empty, off what is left.
func (s *socketStream) skipWritten(n int) {
	for len(s.out.left) > 0 && n >= len(s.out.left[0]) {
		n -= len(s.out.left[0])
		s.out.left = s.out.left[1:]
	}
	if n > 0 {
		s.out.left[0] = s.out.left[0][n:]
	}
}
