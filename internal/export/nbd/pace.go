package nbd

import (
	"sync/atomic"
	"time"
)

const (
	// inlineSize is up to how many bytes a request may be served by the
	// decoder itself: copying more keeps it too long from the next.
	inlineSize = 32 << 10

	// inlineLimit is how long a device may take for such a request on average
	// if the decoder is to wait for it. Waking a worker costs a few
	// microseconds on either side, so a device that answers from memory is
	// served inline, and one that waits for a disk in parallel.
	inlineLimit = 20 * time.Microsecond

	// paceMax bounds what one slow request says of the others. On a machine
	// with too much to do some of them take long on any device.
	paceMax = 5 * inlineLimit
)

// pace is how long a device takes for small requests of one kind: a moving
// average over the last eight or so, in nanoseconds.
type pace struct{ average atomic.Int64 }

// note adds a request to the average. Where two come at once one of them may be
// lost, which does not matter.
func (p *pace) note(length uint32, took time.Duration) {
	if length > inlineSize {
		return
	}
	old := p.average.Load()
	p.average.Store(old + (int64(min(took, paceMax))-old)/8)
}

func (p *pace) isQuick() bool { return p.average.Load() < int64(inlineLimit) }

// isQuick tells whether the decoder should serve a request itself.
func (c *conn) isQuick(r request) bool {
	switch {
	case r.length > inlineSize:
		return false
	case r.cmd == cmdRead:
		return c.reads.isQuick()
	case r.cmd == cmdWrite:
		return r.flags&cmdFlagFUA == 0 && c.writes.isQuick() && !c.dev.Caps().Waits
	}
	return false
}
