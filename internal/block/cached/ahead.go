package cached

// maxStreams is how many sequential readers are told apart: NBD clients have
// up to a dozen at work in different places.
const maxStreams = 16

// firstAhead is how many blocks are read ahead when a second read goes on where
// a first one ended. Each further one doubles that.
const firstAhead = 2

// stream is a reader who reads on.
type stream struct {
	next   int64 // where it goes on, in bytes
	ahead  int64 // up to where was read ahead, in blocks
	window int64 // how far that may be in front of next, in blocks; 0 for a first read
	used   int64 // when it was read last, by Device.clock
}

// readAhead notes a read, and starts to fetch what is likely to be read next.
func (d *Device) readAhead(off, length int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clock++
	s := d.streamAt(off, length)
	s.used = d.clock
	if s.window == 0 {
		return
	}
	from := max(s.ahead, (s.next+d.o.Block-1)/d.o.Block)
	to := min(s.next/d.o.Block+s.window, (d.below.Size()+d.o.Block-1)/d.o.Block)
	for n := from; n < to && !d.closed; n++ {
		if d.blocks[n] != nil {
			continue
		}
		e := &entry{n: n, done: make(chan struct{})}
		d.blocks[n] = e
		d.ahead.Go(func() {
			d.slots <- struct{}{}
			d.fetch(e)
			<-d.slots
		})
	}
	s.ahead = max(s.ahead, to)
}

// streamAt returns the stream that a read belongs to, a new one in the place of
// the oldest if it is none's. A client's reads may come a little out of order.
// d.mu is held.
func (d *Device) streamAt(off, length int64) *stream {
	oldest := &d.streams[0]
	for i := range d.streams {
		s := &d.streams[i]
		slack := s.window * d.o.Block
		if s.used > 0 && off >= s.next-slack && off <= s.next+slack {
			if end := off + length; end > s.next {
				s.next = end
				s.window = min(max(2*s.window, firstAhead), max(d.o.Ahead/d.o.Block, 1))
			}
			return s
		}
		if s.used < oldest.used {
			oldest = s
		}
	}
	*oldest = stream{next: off + length}
	return oldest
}
