package snap

import (
	"errors"
	"fmt"
	"math"

	"cowl/internal/errs"
)

// A store that must not overflow is asked for room before a write is
// acknowledged, for nobody can be told afterwards. What is staged is counted
// by its weight, which is at least what it takes of any store: a write is taken
// if the weight of all that is staged, its own included, fits what the fullest
// such store has left. Only where that is too coarse the commit is waited for,
// and the write's missing chunks are counted one by one.
//
// So a commit always finds the chunks that it needs, and never waits for
// anybody: whoever waits for a commit may hold any lock.

// NoRoom is why a write was not made: it needs chunks of stores that have too
// few and must not overflow (see Snapshot.Reserve). What was made of the write
// before is complete. Its kind is errs.NoSpace.
type NoRoom struct {
	Snaps []*Snapshot // that lack room
	Need  int64       // bytes that the rest of the request takes of a store, at most
}

// add notes a snapshot that lacks so many chunks.
func (e *NoRoom) add(n *Snapshot, chunks int64) {
	e.Snaps = append(e.Snaps, n)
	e.Need = max(e.Need, n.store.layout.Off(uint64(chunks)))
}

// err returns nil if no snapshot lacks room.
func (e *NoRoom) err() error {
	if len(e.Snaps) == 0 {
		return nil
	}
	return errs.E(errs.NoSpace, "%w", e)
}

// Error implements error.
func (e *NoRoom) Error() string {
	return fmt.Sprintf("no room for what the write replaces in %d snapshot(s)", len(e.Snaps))
}

// LacksRoom returns the NoRoom in an error's chain, nil if there is none.
func LacksRoom(err error) *NoRoom {
	if err == nil { // as for nearly all requests, which shall not allocate
		return nil
	}
	var no *NoRoom
	errors.As(err, &no)
	return no
}

// errCrowded says that there may be room once what is staged is committed.
var errCrowded = errors.New("snap: crowded")

// Reserve says whether a write that finds no room in the snapshot's store fails
// (NoRoom), or makes it overflow, as the kernel's stores do and as it is at
// first. Writes that were acknowledged before may still make it overflow.
func (n *Snapshot) Reserve(on bool) {
	c := &n.origin.commit
	c.mu.Lock()
	defer c.mu.Unlock()
	n.reserved = on
	c.measure()
}

// Watch has f called behind every commit that finds at least mark bytes of the
// store allocated. The commit waits for f, which must not wait for anything.
func (s *Store) Watch(mark int64, f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mark, s.reached = mark, f
}

// tell calls who watches the store, if it has come so far.
func (s *Store) tell() {
	s.mu.RLock()
	f, reached := s.reached, s.layout.Off(s.next) >= s.mark
	s.mu.RUnlock()
	if f != nil && reached {
		f()
	}
}

// Free returns how many chunks the store can still take.
func (s *Store) Free() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.free()
}

// Limit has only chunks within the first so many bytes of the COW device count
// as free: those behind may have no place below it. It binds only who asks for
// room (see Snapshot.Reserve).
func (s *Store) Limit(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = s.layout.Chunks(bytes)
}

// Reach returns how many bytes of the COW device a store uses, at most, once it
// has taken so many bytes of chunks more. It may be more than the device has.
func (s *Store) Reach(more int64) int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	more = min(more, 1<<62) + s.layout.ChunkBytes - 1
	return s.layout.Off(s.layout.DataChunk(s.layout.DataIndex(s.next) + s.layout.Chunks(more)))
}

// free is the lesser of the data chunks that are left and the entries that can
// still be made: the last area's last entry would need an area behind it. The
// caller holds mu.
func (s *Store) free() int64 {
	total := min(s.chunks, s.limit)
	areas := s.layout.AreasBelow(total)
	chunks := int64(total) - int64(s.next) - int64(areas-s.layout.AreasBelow(min(s.next, total)))
	perArea := int64(s.layout.PerArea())
	entries := int64(areas)*perArea - 1 - int64(s.areaNo)*perArea - int64(s.used)
	return max(0, min(chunks, entries))
}

// lacks returns how many chunks of [off, end) the store has not copied, and
// where the first is that would be one more than limit; end if there is none.
func (s *Store) lacks(off, end, limit int64) (n, stop int64) {
	size := s.layout.ChunkBytes
	for off < end {
		r := s.nextRun(off, end)
		if !r.excepted {
			first, last := r.off/size, (r.end()-1)/size
			if n+last-first+1 > limit {
				return limit, max(r.off, (first+limit-n)*size)
			}
			n += last - first + 1
		}
		off = r.end()
	}
	return n, end
}

// measure finds out how much weight may be staged. The caller holds mu.
func (c *committer) measure() {
	c.room = math.MaxInt64
	for _, n := range c.snaps {
		if n.strict() {
			c.room = min(c.room, n.store.layout.Off(uint64(n.store.Free())))
		}
	}
}

// strict reports whether requests need room in the snapshot's store. The
// caller holds committer.mu.
func (n *Snapshot) strict() bool {
	return n.reserved && !n.detached.Load() && n.store.err() == nil
}

// admit cuts a request to what there is room for. own is the snapshot whose
// change it is, nil if it is the origin's. If there is no room at all the error
// is errCrowded or a NoRoom. The caller holds mu.
func (c *committer) admit(ch change, own *Snapshot) (change, error) {
	chunk := c.chunk()
	left := c.room - c.weight()
	if left < chunk {
		c.measure() // a store may have grown
		left = c.room - c.weight()
	}
	if left >= chunk {
		units := ch.off/chunk + left/chunk
		if units < math.MaxInt64/chunk {
			ch = ch.part(ch.off, min(ch.end(), units*chunk))
		}
		return ch, nil
	}
	if len(c.gens) > 0 {
		return change{}, errCrowded
	}
	return c.admitExactly(ch, own)
}

// admitExactly is admit with nothing staged. The caller holds mu.
func (c *committer) admitExactly(ch change, own *Snapshot) (change, error) {
	no, end := &NoRoom{}, ch.end()
	for _, n := range c.snaps {
		last := min(ch.end(), n.size)
		if !n.strict() || own != nil && own != n || ch.off >= last {
			continue
		}
		switch _, stop := n.store.lacks(ch.off, last, n.store.Free()); {
		case stop == ch.off:
			k, _ := n.store.lacks(ch.off, last, math.MaxInt64)
			no.add(n, k)
		case stop < last:
			end = min(end, stop)
		}
	}
	if err := no.err(); err != nil {
		return change{}, err
	}
	return ch.part(ch.off, end), nil
}

// submit enqueues a change for which there is room, cut to what there is room
// for.
func (c *committer) submit(ch change, own *Snapshot) (*request, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch, err := c.admit(ch, own)
	if err != nil {
		return nil, err
	}
	r := &request{snap: own, change: ch}
	c.add(r)
	return r, nil
}

// submitAll enqueues changes of the origin if there is room for all of them.
func (c *committer) submitAll(reqs []*request) error {
	for {
		err := c.trySubmit(reqs)
		if !errors.Is(err, errCrowded) {
			return err
		}
		c.drain()
	}
}

func (c *committer) trySubmit(reqs []*request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var weight int64
	chunk := c.chunk()
	for _, r := range reqs {
		weight += r.weight(chunk)
	}
	if c.weight()+weight > c.room {
		c.measure()
	}
	switch {
	case c.weight()+weight <= c.room:
	case len(c.gens) > 0:
		return errCrowded
	default:
		if err := c.roomForAll(reqs); err != nil {
			return err
		}
	}
	c.add(reqs...)
	return nil
}

// roomForAll counts what each store lacks of changes of the origin. Nothing is
// staged; the caller holds mu.
func (c *committer) roomForAll(reqs []*request) error {
	no := &NoRoom{}
	for _, n := range c.snaps {
		if !n.strict() {
			continue
		}
		var total int64
		for _, r := range reqs {
			k, _ := n.store.lacks(r.off, min(r.end(), n.size), math.MaxInt64)
			total += k
		}
		if total > n.store.Free() {
			no.add(n, total)
		}
	}
	return no.err()
}
