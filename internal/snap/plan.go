package snap

import (
	"cmp"
	"fmt"
	"slices"

	"cowl/internal/errs"
	"cowl/internal/format/dmsnap"
)

// plan is one store's part of a commit. The first error ends it: the later
// steps do nothing and finish invalidates the store, as the kernel does when a
// copy or an area write fails.
type plan struct {
	snap  *Snapshot
	store *Store
	size  int64 // of the origin, which may grow meanwhile
	jobs  []job // in ascending order of origin chunk, once allocated
	err   error

	// The store's current area and how many entries it will have; what was
	// current before, and is written last, if it is another one.
	area   []byte
	areaNo uint64
	used   int
}

// job is a chunk to copy.
type job struct {
	dmsnap.Exception
	whole bool // the snapshot's own write replaces all of it: no need to read
}

// bounds returns the job's bytes on the origin, whose last chunk may be short.
// They may go beyond the end of the snapshot, as the kernel's copies do.
func (p *plan) bounds(j job) (off, end int64) {
	off = p.store.layout.Off(j.Old)
	return off, min(off+p.store.layout.ChunkBytes, p.size)
}

// want adds the chunks of [off, end) that the store lacks. own is the
// snapshot's own request if that is what changes the range, otherwise nil.
func (p *plan) want(off, end int64, own *request) {
	filled := true
	for end := min(end, p.snap.size); off < end; {
		run := p.store.nextRun(off, end)
		if run.excepted {
			filled = false
		} else {
			for chunk := p.store.chunkOf(run.off); chunk <= p.store.chunkOf(run.end()-1); chunk++ {
				p.add(chunk, own)
			}
		}
		off = run.end()
	}
	if own != nil {
		own.filled = filled
	}
}

func (p *plan) add(chunk uint64, own *request) {
	if n := len(p.jobs); n > 0 && p.jobs[n-1].Old == chunk && own == nil {
		return // the neighbouring pages of one chunk
	}
	j := job{Exception: dmsnap.Exception{Old: chunk}}
	if own != nil {
		start, end := p.bounds(j)
		j.whole = own.off <= start && end <= own.end()
	}
	p.jobs = append(p.jobs, j)
}

func (s *Store) chunkOf(off int64) uint64 { return uint64(off / s.layout.ChunkBytes) }

// allocate orders the jobs and gives each the next free chunk, as the kernel's
// prepare_exception does. Ascending origin chunks get ascending places, so
// that a merge finds long runs.
func (p *plan) allocate() {
	slices.SortFunc(p.jobs, func(a, b job) int {
		if a.whole && !b.whole {
			return cmp.Or(cmp.Compare(a.Old, b.Old), -1)
		}
		return cmp.Compare(a.Old, b.Old)
	})
	p.jobs = slices.CompactFunc(p.jobs, func(a, b job) bool { return a.Old == b.Old })
	s := p.store
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range p.jobs {
		if s.next >= s.chunks {
			p.err = errs.E(errs.NoSpace, "it overflowed: all %d chunks of its COW device are in use", s.chunks)
			return
		}
		p.jobs[i].New = s.next
		s.next = s.layout.SkipMetadata(s.next + 1)
	}
}

// image returns the new content of all jobs' chunks, one behind the other. It
// is what was read from the origin where that is the same, otherwise in c.buf.
func (c *committer) image(p *plan, old []span, batch []*request) []byte {
	if p.err != nil {
		return nil
	}
	if p.err = p.unread(old); p.err != nil {
		return nil
	}
	size := int(p.store.layout.ChunkBytes) * len(p.jobs)
	own := func(r *request) bool { return r.snap == p.snap }
	if p.isAllOf(c.old) && !slices.ContainsFunc(batch, own) {
		return c.old
	}
	c.buf = pageAligned(c.buf, size)
	p.fill(c.buf, old)
	for _, r := range batch {
		if own(r) {
			p.overlay(c.buf, r)
		}
	}
	return c.buf
}

// unread returns why the old content of a job's chunk is not there, nil if all is.
func (p *plan) unread(old []span) error {
	for _, s := range old {
		if s.err == nil {
			continue
		}
		for _, j := range p.jobs {
			if off, end := p.bounds(j); !j.whole && off < s.end && s.off < end {
				return fmt.Errorf("its origin could not be read: %w", s.err)
			}
		}
	}
	return nil
}

// isAllOf reports whether the plan's chunks are just what was read, whole
// chunks all of them.
func (p *plan) isAllOf(old []byte) bool {
	var read int64
	for _, j := range p.jobs {
		if off, end := p.bounds(j); !j.whole {
			read += end - off
		}
	}
	return read == int64(len(old)) && read == int64(len(p.jobs))*p.store.layout.ChunkBytes
}

// fill puts the old content of the jobs' chunks into buf, and zeroes behind
// the origin's end.
func (p *plan) fill(buf []byte, old []span) {
	size := p.store.layout.ChunkBytes
	for i, j := range p.jobs {
		chunk := buf[int64(i)*size:][:size]
		off, end := p.bounds(j)
		if j.whole {
			clear(chunk[end-off:])
			continue
		}
		at, _ := slices.BinarySearchFunc(old, off, func(s span, off int64) int { return cmp.Compare(s.end-1, off) })
		clear(chunk[copy(chunk, old[at].data[off-old[at].off:end-old[at].off]):])
	}
}

// overlay makes a snapshot's own change in its new chunks.
func (p *plan) overlay(buf []byte, r *request) {
	size := p.store.layout.ChunkBytes
	i, _ := slices.BinarySearchFunc(p.jobs, p.store.chunkOf(r.off), func(j job, chunk uint64) int { return cmp.Compare(j.Old, chunk) })
	for ; i < len(p.jobs) && p.store.layout.Off(p.jobs[i].Old) < r.end(); i++ {
		r.overlay(buf[int64(i)*size:][:size], p.store.layout.Off(p.jobs[i].Old))
	}
}

// writeChunks writes the new chunks, and all areas but the current one: what
// stands in them does not count until the current area is full on disk.
func (c *committer) writeChunks(p *plan, image []byte) {
	if p.err != nil {
		return
	}
	pieces := p.pieces()
	size := p.store.layout.ChunkBytes
	c.each(len(pieces), func(i int) {
		w := &pieces[i]
		_, w.err = p.store.dev.WriteAt(image[int64(w.first)*size:int64(w.last)*size], p.store.layout.Off(p.jobs[w.first].New))
	})
	for _, w := range pieces {
		if w.err != nil {
			p.err = fmt.Errorf("its COW device failed (chunk %d): %w", p.jobs[w.first].New, w.err)
			return
		}
	}
	p.enter()
}

// piece is a run of jobs whose chunks are written at once.
type piece struct {
	first, last int // the jobs [first, last)
	err         error
}

// pieces divides the jobs into runs of adjacent new chunks, none larger than
// pieceBytes unless its one chunk is.
func (p *plan) pieces() []piece {
	var out []piece
	most := max(1, pieceBytes/int(p.store.layout.ChunkBytes))
	for i := 0; i < len(p.jobs); {
		n := i + 1
		for n < len(p.jobs) && n-i < most && p.jobs[n].New == p.jobs[n-1].New+1 {
			n++
		}
		out = append(out, piece{first: i, last: n})
		i = n
	}
	return out
}

// enter puts the exceptions into the areas' images.
func (p *plan) enter() {
	s := p.store
	p.area, p.areaNo, p.used = s.area, s.areaNo, s.used
	for _, j := range p.jobs {
		dmsnap.PutEntry(p.area, p.used, j.Exception)
		p.used++
		if p.used == s.layout.PerArea() {
			p.nextArea()
		}
	}
	if p.areaNo != s.areaNo {
		p.write("area", s.layout.AreaChunk(p.areaNo), p.area)
	}
}

// nextArea leaves a full area for a fresh one. The current area's image stays
// as it is: it will be written last.
func (p *plan) nextArea() {
	s := p.store
	if p.areaNo != s.areaNo {
		p.write("area", s.layout.AreaChunk(p.areaNo), p.area)
	}
	p.area, p.areaNo, p.used = make([]byte, len(s.area)), p.areaNo+1, 0
	if s.layout.AreaChunk(p.areaNo) >= s.total() && p.err == nil {
		p.err = errs.E(errs.NoSpace, "it overflowed: no room for exception area %d", p.areaNo)
	}
}

func (p *plan) write(what string, chunk uint64, b []byte) {
	if p.err != nil {
		return
	}
	if _, err := p.store.dev.WriteAt(b, p.store.layout.Off(chunk)); err != nil {
		p.err = fmt.Errorf("its COW device failed (%s %d): %w", what, chunk, err)
	}
}

func (p *plan) flush() {
	if p.err != nil {
		return
	}
	if err := p.store.dev.Flush(); err != nil {
		p.err = fmt.Errorf("its COW device failed (flush): %w", err)
	}
}

// writeArea writes the current area, the commit point.
func (p *plan) writeArea() {
	p.write("area", p.store.layout.AreaChunk(p.store.areaNo), p.store.area)
}

// finish enters the exceptions into the index, or invalidates the store. It
// returns an error only if the origin must not be written: the store is
// invalid and nobody will know after a restart.
func (p *plan) finish() error {
	s := p.store
	if p.err != nil {
		return s.invalidate(p.err.Error())
	}
	s.mu.Lock()
	for _, j := range p.jobs {
		s.index.insert(j.Exception)
	}
	s.area, s.areaNo, s.used = p.area, p.areaNo, p.used
	s.mu.Unlock()
	s.tell()
	return nil
}
