package nbd

import "bytes"

const (
	// sparseRead is from how many bytes on a READ is searched for zeroes. For
	// less, the search costs more than sending them.
	sparseRead = 64 << 10

	// zeroUnit is how many zeroes together are worth leaving out, in bytes.
	zeroUnit = 16 << 10

	// maxChunks bounds the chunks of a reply, so that replyRoom holds their
	// headers. The last one takes the rest.
	maxChunks = 24
)

// read serves READ: the data goes behind the room for headers, the reply's
// header just before it, so that they are one piece.
func (c *conn) read(r request, b *buffer) error {
	data := b.data[replyRoom:][:r.length]
	if _, err := c.dev.ReadAt(data, int64(r.off)); err != nil {
		return err
	}
	switch {
	case !c.structured:
		b.b = b.data[replyRoom-simpleReplySize:][:simpleReplySize+len(data)]
		appendSimple(b.b[:0], r.cookie, 0)
	case len(data) == 0: // a chunk of no bytes is not allowed
		b.b = appendChunk(b.data[:0], replyFlagDone, chunkNone, r.cookie, 0)
	case len(data) < sparseRead || r.flags&cmdFlagDF != 0 || !hasZeroes(data):
		b.b = b.data[replyRoom-dataChunkSize:][:dataChunkSize+len(data)]
		appendDataHeader(b.b[:0], replyFlagDone, r.cookie, r.off, len(data))
	default:
		readSparse(r, b, data)
	}
	return nil
}

// readSparse makes the reply a chunk for each run of data or zeroes. Zeroes are
// looked for in the data, not in the device's extents: nobody knows what asking
// for those costs, and a file system may look through the whole file.
//
// The chunks' headers lie in the room before the data.
func readSparse(r request, b *buffer, data []byte) {
	head := b.data[:0]
	off := r.off
	for n := 1; len(data) > 0; n++ {
		length, zero := nextRun(data)
		if n == maxChunks {
			length, zero = len(data), false
		}
		var flags uint16
		if length == len(data) {
			flags = replyFlagDone
		}
		start := len(head)
		if zero {
			head = appendHole(head, flags, r.cookie, off, uint32(length))
			b.more = append(b.more, head[start:])
		} else {
			head = appendDataHeader(head, flags, r.cookie, off, length)
			b.more = append(b.more, head[start:], data[:length])
		}
		data = data[length:]
		off += uint64(length)
	}
	b.b = b.more[0]
	b.more = b.more[1:]
}

var zeroes [zeroUnit]byte

// isZero tells whether the data, at most a zeroUnit, is all zeroes.
func isZero(data []byte) bool { return bytes.Equal(data, zeroes[:len(data)]) }

// hasZeroes tells whether any unit of the data is all zeroes.
func hasZeroes(data []byte) bool {
	for ; len(data) >= zeroUnit; data = data[zeroUnit:] {
		if isZero(data[:zeroUnit]) {
			return true
		}
	}
	return false
}

// nextRun returns how far the data begins with units that are all zeroes, or
// that are not. What is left over at the end is like the last unit, or data.
func nextRun(data []byte) (length int, zero bool) {
	unit := min(zeroUnit, len(data))
	zero = unit == zeroUnit && isZero(data[:unit])
	for length = unit; length < len(data); length += unit {
		unit = min(zeroUnit, len(data)-length)
		if (zero || unit == zeroUnit) && isZero(data[length:][:unit]) != zero {
			break
		}
	}
	return length, zero
}
