package nbd

import (
	"iter"
	"time"

	"cowl/internal/block"
)

// maxDescriptors bounds an answer to BLOCK_STATUS; the client asks again from
// where it ends.
const maxDescriptors = 4000

// statusPatience bounds how long an answer is worked on, once there is something
// to answer: what is known of a range may have to be read first.
const statusPatience = 250 * time.Millisecond

// statusSize is the longest chunk that one context answers to a request, in
// bytes.
func statusSize(r request) int {
	n := maxDescriptors
	if r.flags&cmdFlagReqOne != 0 {
		n = 1
	}
	return chunkHeaderSize + 4 + n*descriptorSize
}

// blockStatus serves BLOCK_STATUS: a chunk for each metadata context.
func (c *conn) blockStatus(r request, b *buffer) error {
	b.b = b.data[:0]
	for i, m := range c.contexts {
		var flags uint16
		if i == len(c.contexts)-1 {
			flags = replyFlagDone
		}
		if err := c.contextStatus(r, b, m, flags); err != nil {
			return err
		}
	}
	return nil
}

// contextStatus appends one context's chunk.
func (c *conn) contextStatus(r request, b *buffer, m metaContext, flags uint16) error {
	chunk := len(b.b)
	b.b = appendChunk(b.b, flags, chunkBlockStatus, r.cookie, 0)
	b.b = be.AppendUint32(b.b, m.id)

	limit, start := chunk+statusSize(r), time.Now()
	var length, state uint32
	for d, err := range c.states(m, int64(r.off), int64(r.length)) {
		if err != nil {
			return err
		}
		if d.state != state || length == 0 {
			if length > 0 {
				b.b = appendDescriptor(b.b, length, state)
			}
			if length, state = 0, d.state; len(b.b) == limit {
				break
			}
		}
		if length += d.length; time.Since(start) > statusPatience {
			break
		}
	}
	if length > 0 {
		b.b = appendDescriptor(b.b, length, state)
	}
	be.PutUint32(b.b[chunk+chunkHeaderSize-4:], uint32(len(b.b)-chunk-chunkHeaderSize))
	return nil
}

func appendDescriptor(b []byte, length, state uint32) []byte {
	b = be.AppendUint32(b, length)
	return be.AppendUint32(b, state)
}

// states walks a range, shorter than 4 GiB, by what a context says of it.
// Neighbours may have the same state.
func (c *conn) states(m metaContext, off, length int64) iter.Seq2[descriptor, error] {
	return func(yield func(descriptor, error) bool) {
		if m.bitmap == nil {
			for e, err := range c.dev.Extents(off, length) {
				if !yield(descriptor{uint32(e.Len), stateOf(e, m.id)}, err) {
					return
				}
			}
			return
		}
		for run, err := range m.bitmap.Runs(off, length) {
			d := descriptor{length: uint32(run.Len)}
			if run.Marked {
				d.state = stateDirty
			}
			if !yield(d, err) {
				return
			}
		}
	}
}

// stateOf is what a metadata context says of an extent.
func stateOf(e block.Extent, id uint32) uint32 {
	switch {
	case id == idDepth && e.Kind == block.Hole:
		return 0 // not allocated in any layer
	case id == idDepth:
		return uint32(e.Depth) + 1
	case e.Kind == block.Hole:
		return stateHole | stateZero
	case e.Kind == block.Zero:
		return stateZero
	}
	return 0
}
