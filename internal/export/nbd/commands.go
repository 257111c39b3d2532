package nbd

import (
	"math"
	"time"

	"cowl/internal/block"
	"cowl/internal/errs"
)

// scratchSize is how much CACHE reads at a time, in bytes.
const scratchSize = 1 << 20

// allowedFlags are the flags that each command may carry. FUA is allowed with
// all: clients are known to set it anywhere.
var allowedFlags = [...]uint16{
	cmdRead:        cmdFlagFUA | cmdFlagDF,
	cmdWrite:       cmdFlagFUA,
	cmdFlush:       cmdFlagFUA,
	cmdTrim:        cmdFlagFUA,
	cmdCache:       cmdFlagFUA,
	cmdWriteZeroes: cmdFlagFUA | cmdFlagNoHole | cmdFlagFastZero,
	cmdBlockStatus: cmdFlagFUA | cmdFlagReqOne,
}

// check says why a request cannot be served, before anything is done for it.
func (c *conn) check(r request) error {
	if int(r.cmd) >= len(allowedFlags) {
		return errs.E(errs.Usage, "unknown command %d", r.cmd)
	}
	if bad := r.flags &^ allowedFlags[r.cmd]; bad != 0 {
		return errs.E(errs.Usage, "command %d with flags %#x", r.cmd, r.flags)
	}
	changes := r.cmd == cmdWrite || r.cmd == cmdTrim || r.cmd == cmdWriteZeroes
	switch {
	case r.cmd == cmdFlush:
		return nil
	case changes && c.dev.Caps().ReadOnly:
		return block.ErrReadOnly
	case (r.cmd == cmdRead || r.cmd == cmdWrite) && r.length > maxPayload:
		return errs.E(errs.Usage, "request of %d bytes, the limit is %d", r.length, maxPayload)
	case r.cmd == cmdBlockStatus && (len(c.contexts) == 0 || r.length == 0):
		return errs.E(errs.Usage, "block status without a metadata context or length")
	}
	return checkRange(r, c.dev.Size())
}

// checkRange holds a request against the device's present size. What would
// write behind the end gets ENOSPC, as on a disk.
func checkRange(r request, size int64) error {
	if r.off <= math.MaxInt64 && block.CheckRange(int64(r.off), int64(r.length), size) == nil {
		return nil
	}
	kind := errs.Usage
	if r.cmd == cmdWrite || r.cmd == cmdWriteZeroes {
		kind = errs.NoSpace
	}
	return errs.E(kind, "range of %d bytes at offset %d is outside the export's %d bytes", r.length, r.off, size)
}

// payloadSize is how large a buffer a request needs, for its payload, its
// answer, or to work with.
func (c *conn) payloadSize(r request) int {
	switch r.cmd {
	case cmdRead, cmdWrite:
		return int(r.length)
	case cmdCache:
		return int(min(r.length, scratchSize))
	case cmdBlockStatus:
		return len(c.contexts) * statusSize(r)
	}
	return 0
}

// perform does what a request asks for and puts its reply into the buffer.
func (c *conn) perform(j job) {
	start := time.Now()
	err := c.execute(j)
	switch j.cmd {
	case cmdRead:
		c.reads.note(j.length, time.Since(start))
	case cmdWrite:
		c.writes.note(j.length, time.Since(start))
	}
	if err != nil {
		c.appendFailure(j.buf, j.request, err)
	}
}

func (c *conn) execute(j job) error {
	off, length := int64(j.off), int64(j.length)
	var err error
	switch j.cmd {
	case cmdRead:
		return c.read(j.request, j.buf)
	case cmdBlockStatus:
		return c.blockStatus(j.request, j.buf)
	case cmdWrite:
		_, err = c.dev.WriteAt(j.payload, off)
	case cmdFlush:
		err = c.dev.Flush()
	case cmdTrim:
		err = c.dev.Discard(off, length)
	case cmdCache:
		err = c.cache(off, length, j.buf)
	case cmdWriteZeroes:
		err = c.writeZeroes(j.request)
	}
	if err == nil && j.flags&cmdFlagFUA != 0 && isWrite(j.cmd) {
		err = c.dev.Flush()
	}
	if err == nil {
		j.buf.b = appendSimple(j.buf.data[:0], j.cookie, 0)
	}
	return err
}

// isWrite tells whether a command can change the device.
func isWrite(cmd uint16) bool { return cmd == cmdWrite || cmd == cmdTrim || cmd == cmdWriteZeroes }

// appendFailure makes the buffer an error reply.
func (c *conn) appendFailure(b *buffer, r request, err error) {
	b.more = b.more[:0]
	if c.structured {
		b.b = appendError(b.data[:0], r.cookie, errnoOf(err), cutText(err.Error(), replyRoom-errorChunkSize))
		return
	}
	b.b = appendSimple(b.data[:0], r.cookie, errnoOf(err))
}

// writeZeroes serves WRITE_ZEROES. Where no hole may be made only real zeroes
// will do.
func (c *conn) writeZeroes(r request) error {
	off, length := int64(r.off), int64(r.length)
	noHole := r.flags&cmdFlagNoHole != 0
	switch {
	case r.flags&cmdFlagFastZero != 0 && (noHole || !c.dev.Caps().Zeroes):
		return errNotFast
	case noHole:
		return block.WriteZeroBytes(c.dev, off, length)
	}
	return c.dev.WriteZeroes(off, length)
}

// cache serves CACHE by reading, so that what lies below has it at hand.
func (c *conn) cache(off, length int64, b *buffer) error {
	for length > 0 {
		n := min(length, scratchSize)
		if _, err := c.dev.ReadAt(b.data[:n], off); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}
