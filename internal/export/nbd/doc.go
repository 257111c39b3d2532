// Package nbd speaks the NBD protocol: a Server that gives a set of block
// devices to any number of clients, and a client whose Device is one of them.
//
// It is fixed newstyle with structured replies, block status and no TLS: it
// belongs on a unix socket. It knows nothing of volumes.
//
// # A server's connection
//
// One goroutine decodes requests, many to a read of the socket. What is quick
// it serves itself (see pace); the rest goes to up to maxWorkers others (more
// where the device says that writes may wait for long), so
// replies leave in any order. They gather in the outbox and leave together
// when the decoder runs out of requests. Whatever a peer does, a connection
// holds at most maxHeld bytes of payloads and replies, its decoder's buffer,
// and its workers.
//
// # Locks
//
// Server.mu, then conn.mu; outbox.mu, then budget.mu. None is held across I/O
// or a call to a device.
package nbd
