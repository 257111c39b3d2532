//go:build !unix

package nbd

import "net"

// Listen returns a listener on a unix socket. Who can open it is decided by the
// directory it is in.
func Listen(path string) (net.Listener, error) { return net.Listen("unix", path) }
