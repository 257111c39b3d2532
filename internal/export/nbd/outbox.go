package nbd

import (
	"net"
	"sync"
)

// gather is how many bytes of replies wait at most for more of them before
// they are written: a few segments of a socket's buffer.
const gather = 256 << 10

// outbox writes replies to a connection, many to a system call. It has no
// goroutine of its own: whoever brings a reply while nobody writes becomes the
// writer, and goes on until the queue is empty, so that replies that come
// meanwhile leave together and nobody waits for anybody.
//
// It is not bounded itself; each reply in it holds a part of the budget.
type outbox struct {
	stream stream
	budget *budget

	mu      sync.Mutex
	queue   []*buffer
	bytes   int  // in queue
	writing bool // somebody is writing, and will look at queue again
	err     error

	// The writer's own while writing is set.
	batch  []*buffer
	vector net.Buffers
}

// put queues a reply for the next flush, and is that flush where enough have
// gathered. The buffer is the outbox's from here on.
func (o *outbox) put(b *buffer) {
	o.mu.Lock()
	o.queue = append(o.queue, b)
	o.bytes += b.size()
	full := o.bytes >= gather
	o.mu.Unlock()
	if full {
		o.flush()
	}
}

// send queues a reply and sees to it that it leaves.
func (o *outbox) send(b *buffer) {
	o.mu.Lock()
	o.queue = append(o.queue, b)
	o.bytes += b.size()
	o.mu.Unlock()
	o.flush()
}

// flush writes what is queued, unless somebody is at it.
func (o *outbox) flush() {
	o.mu.Lock()
	if o.writing {
		o.mu.Unlock()
		return
	}
	o.writing = true
	for len(o.queue) > 0 {
		o.batch, o.queue, o.bytes = o.queue, o.batch[:0], 0
		err := o.err
		o.mu.Unlock()
		if err == nil {
			err = o.write(o.batch)
		}
		o.release(o.batch)
		o.mu.Lock()
		o.err = err
	}
	o.writing = false
	o.mu.Unlock()
}

// write writes the replies together.
func (o *outbox) write(batch []*buffer) error {
	o.vector = o.vector[:0]
	for _, b := range batch {
		o.vector = append(o.vector, b.b)
		o.vector = append(o.vector, b.more...)
	}
	return o.stream.writeAll(o.vector)
}

// release ends the replies' lives, written or not.
func (o *outbox) release(batch []*buffer) {
	var cost int64
	for i, b := range batch {
		cost += b.cost
		b.free()
		batch[i] = nil
	}
	o.budget.give(cost)
}
