package nbd

import "cowl/internal/block"

// maxDescriptors bounds an answer to BLOCK_STATUS; the client asks again from
// where it ends.
const maxDescriptors = 4000

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
	for i, id := range c.contexts {
		var flags uint16
		if i == len(c.contexts)-1 {
			flags = replyFlagDone
		}
		if err := c.contextStatus(r, b, id, flags); err != nil {
			return err
		}
	}
	return nil
}

// contextStatus appends one context's chunk.
func (c *conn) contextStatus(r request, b *buffer, id uint32, flags uint16) error {
	chunk := len(b.b)
	b.b = appendChunk(b.b, flags, chunkBlockStatus, r.cookie, 0)
	b.b = be.AppendUint32(b.b, id)

	limit := chunk + statusSize(r)
	var length, state uint32
	for e, err := range c.dev.Extents(int64(r.off), int64(r.length)) {
		if err != nil {
			return err
		}
		if s := stateOf(e, id); s != state || length == 0 {
			if length > 0 {
				b.b = appendDescriptor(b.b, length, state)
			}
			if length, state = 0, s; len(b.b) == limit {
				break
			}
		}
		length += uint32(e.Len)
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
