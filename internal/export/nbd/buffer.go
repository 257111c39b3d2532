package nbd

import "sync"

// replyRoom is how much longer than its payload a buffer is: room for the
// reply's headers, several chunks of them where a read finds holes.
const replyRoom = 1024

// buffer carries a request's payload in and its reply out.
type buffer struct {
	b    []byte   // the reply, in data
	more [][]byte // where it goes on, in data too
	data []byte   // replyRoom, then one of bufferSizes
	cost int64    // what it holds of its connection's budget
}

// bufferSizes are the payloads that the pools' buffers have room for. The
// smallest is for replies without a payload.
var bufferSizes = [...]int{0, 4 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, maxPayload}

var bufferPools [len(bufferSizes)]sync.Pool

// bufferClass returns the index of the smallest buffers that have room for a
// payload of n bytes, at most maxPayload.
func bufferClass(n int) int {
	c := 0
	for bufferSizes[c] < n {
		c++
	}
	return c
}

// newBuffer returns an empty buffer with room for a payload of n bytes, and
// for replyRoom more.
func newBuffer(n int) *buffer {
	c := bufferClass(n)
	if b, ok := bufferPools[c].Get().(*buffer); ok {
		b.b, b.more = b.data[:0], b.more[:0]
		return b
	}
	data := make([]byte, bufferSizes[c]+replyRoom)
	return &buffer{b: data[:0], data: data}
}

// size is the reply's length in bytes.
func (b *buffer) size() int {
	n := len(b.b)
	for _, p := range b.more {
		n += len(p)
	}
	return n
}

// free gives the buffer back to its pool.
func (b *buffer) free() {
	bufferPools[bufferClass(len(b.data)-replyRoom)].Put(b)
}

// budget bounds the memory that one connection's requests hold, from the
// moment a request is accepted until its reply has left. Only one goroutine
// takes from it, so nobody can starve.
type budget struct {
	mu    sync.Mutex
	freed sync.Cond
	left  int64 // bytes
}

func newBudget(bytes int64) *budget {
	g := &budget{left: bytes}
	g.freed.L = &g.mu
	return g
}

// tryTake takes n bytes if they are there at once.
func (g *budget) tryTake(n int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left < n {
		return false
	}
	g.left -= n
	return true
}

// take waits for n bytes, no more than the whole budget.
func (g *budget) take(n int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.left < n {
		g.freed.Wait()
	}
	g.left -= n
}

// give returns n bytes.
func (g *budget) give(n int64) {
	g.mu.Lock()
	g.left += n
	g.mu.Unlock()
	g.freed.Signal()
}
