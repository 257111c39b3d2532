package nbd

import "cowl/internal/block"

const (
	// sparseRead is from how many bytes on a READ asks for holes first. For
	// less, asking costs more than sending zeroes.
	sparseRead = 64 << 10

	// maxChunks bounds the chunks of a reply, so that replyRoom holds their
	// headers. The last one takes the rest.
	maxChunks = 24
)

// read serves READ into the buffer.
func (c *conn) read(r request, b *buffer) error {
	b.b = b.data[:0]
	switch {
	case !c.structured:
		b.b = appendSimple(b.b, r.cookie, 0)
		return c.readInto(b, int64(r.off), int64(r.length))
	case r.length == 0: // a chunk of no bytes is not allowed
		b.b = appendChunk(b.b, replyFlagDone, chunkNone, r.cookie, 0)
		return nil
	case r.length < sparseRead || r.flags&cmdFlagDF != 0:
		return c.readData(b, r, run{int64(r.off), int64(r.length), false}, replyFlagDone)
	}
	return c.readSparse(r, b)
}

// readInto appends length bytes of the device to the buffer.
func (c *conn) readInto(b *buffer, off, length int64) error {
	at := len(b.b)
	b.b = b.data[:at+int(length)]
	_, err := c.dev.ReadAt(b.b[at:], off)
	return err
}

// run is a part of a READ that is all data, or all zeroes.
type run struct {
	off, length int64
	zero        bool
}

// readData answers, or goes on with an answer, by a chunk of data.
func (c *conn) readData(b *buffer, r request, d run, flags uint16) error {
	b.b = appendDataHeader(b.b, flags, r.cookie, uint64(d.off), int(d.length))
	return c.readInto(b, d.off, d.length)
}

// readSparse answers with a chunk for each run of data or zeroes.
func (c *conn) readSparse(r request, b *buffer) error {
	var space [maxChunks]run
	runs := c.runs(space[:0], int64(r.off), int64(r.length))
	for i, d := range runs {
		var flags uint16
		if i == len(runs)-1 {
			flags = replyFlagDone
		}
		if d.zero {
			b.b = appendHole(b.b, flags, r.cookie, uint64(d.off), uint32(d.length))
		} else if err := c.readData(b, r, d, flags); err != nil {
			return err
		}
	}
	return nil
}

// runs appends the runs of a range to an empty slice. What does not fit, or
// cannot be told, is data: reading it will show.
func (c *conn) runs(runs []run, off, length int64) []run {
	at, end := off, off+length
	for e, err := range c.dev.Extents(off, length) {
		if err != nil || len(runs) == maxChunks-1 {
			break
		}
		runs = addRun(runs, e.Off, e.Len, e.Kind != block.Data)
		at = e.End()
	}
	if at < end {
		runs = addRun(runs, at, end-at, false)
	}
	return runs
}

// addRun appends a run, or makes the last one longer.
func addRun(runs []run, off, length int64, zero bool) []run {
	if n := len(runs); n > 0 && runs[n-1].zero == zero {
		runs[n-1].length += length
		return runs
	}
	return append(runs, run{off, length, zero})
}
