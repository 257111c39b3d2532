package nbd

import (
	"io"
	"net"
)

// stream is a connection's bytes. One goroutine at a time reads, and one writes.
// The connection's deadlines hold for it.
type stream interface {
	io.Reader

	// writeAll writes the pieces, by one system call where there is one for it.
	// It consumes the slice, as net.Buffers.WriteTo does.
	writeAll(v net.Buffers) error
}

// plainStream is package net's way.
type plainStream struct{ net.Conn }

func (s plainStream) writeAll(v net.Buffers) error {
	if len(v) == 1 {
		_, err := s.Conn.Write(v[0])
		return err
	}
	_, err := v.WriteTo(s.Conn)
	return err
}
