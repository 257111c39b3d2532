package repo

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	kopia "github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/object"

	"cowl/internal/block"
	"cowl/internal/errs"
)

// Source is what an image is made from.
type Source struct {
	// Dev is the volume's content, which does not change meanwhile. Reads run
	// in parallel.
	Dev block.Device
	// Base is an image of what the device held earlier, and Changed the segments
	// that may have changed since, in the base's layout for the device's size.
	// Without a Base everything is read that is not a hole.
	Base    *Image
	Changed *Set
}

// StoreOptions are about how an image is stored.
type StoreOptions struct {
	Segment int64 // bytes; 0 means the base's, or DefaultSegment
	// Progress is told how many of the bytes that are to be read have been.
	Progress func(done, total int64)
	// BeforeCommit is asked once everything is read and stored, and before there
	// is a backup. If it fails there is none.
	BeforeCommit func(ctx context.Context) error
}

// Stats is what storing an image came to. All in bytes.
type Stats struct {
	Read int64 `json:"read_bytes"` // from the volume
	// Changed is what of Read differs from the base; all that is not zero,
	// where there is no base.
	Changed int64 `json:"changed_bytes"`
	// Written is what the store took: data that no earlier backup has,
	// compressed and encrypted, indexes and manifests included.
	Written int64 `json:"stored_bytes"`
}

// Measures of the work.
const (
	runBytes   = 1 << 20 // the most that is read at once
	zeroPiece  = 8 << 20 // pieces of a group of zeroes
	compressor = "zstd-fastest"
	// splitter cuts no segment.
	splitter = "FIXED-8M"
	// checkpointPuts is after how many segments what was stored is committed:
	// what is not yet takes memory, some 200 bytes a segment.
	checkpointPuts = 1 << 16
	// The first checkpoint comes after checkpointFirst, each further one after
	// twice the time of the one before, up to checkpointLast. Each costs a pack
	// that is not full and an index that is to be merged with others later.
	checkpointFirst = 30 * time.Second
	checkpointLast  = 10 * time.Minute
)

// saver is one image on its way into the repository.
type saver struct {
	r      *Repo
	w      kopia.DirectRepositoryWriter
	src    Source
	layout Layout
	set    *Set // segments to read
	zero   zeroes
	groups []object.ID

	read, changed, puts atomic.Int64
	progress            func(int64)

	mu      sync.Mutex // guards the checkpoints
	next    time.Time
	pause   time.Duration
	counted int64 // puts at the last one
}

// save stores a source, and returns its image's top index. Nothing is
// committed yet but what checkpoints have.
func (s *saver) save(ctx context.Context, src Source, o StoreOptions) (object.ID, error) {
	s.src, s.pause, s.next = src, checkpointFirst, time.Now().Add(checkpointFirst)
	if err := s.plan(o); err != nil {
		return object.EmptyID, err
	}
	if err := s.prepareZeroes(ctx); err != nil {
		return object.EmptyID, err
	}
	total, done := s.set.bytes(s.layout), new(atomic.Int64)
	s.progress = func(n int64) {
		if o.Progress != nil {
			o.Progress(done.Add(n), total)
		}
	}
	s.progress(0)
	if err := s.saveGroups(ctx); err != nil {
		return object.EmptyID, err
	}
	return s.index(ctx, s.layout.Group, s.layout.Bytes, s.groups)
}

// plan decides what is read.
func (s *saver) plan(o StoreOptions) error {
	size := s.src.Dev.Size()
	segment := o.Segment
	if s.src.Base != nil {
		segment = s.src.Base.layout.Segment
	}
	if segment == 0 {
		segment = DefaultSegment
	}
	s.layout = NewLayout(size, segment)
	if err := s.layout.Validate(); err != nil {
		return err
	}
	s.groups = make([]object.ID, s.layout.Groups())
	s.set = NewSet(s.layout.Segments())
	if s.src.Base == nil {
		return s.planAll()
	}
	if s.src.Changed == nil || s.src.Changed.n != s.set.n {
		return errs.E(errs.Usage, "the set of changed segments is not of an image of %d bytes", size)
	}
	copy(s.set.words, s.src.Changed.words)
	// What the base lacks, or has otherwise, has to be read whatever is said of
	// changes: a tail by which the volume grew, and the last segment of either.
	if old := s.src.Base.layout.Bytes; old != size {
		from := min(old, size) / segment * segment
		s.set.AddRange(s.layout, from, size-from)
	}
	return nil
}

// planAll reads all that is not a hole.
func (s *saver) planAll() error {
	var at int64
	for e, err := range s.src.Dev.Extents(0, s.layout.Bytes) {
		if err != nil {
			return err
		}
		if e.Off != at || e.Len <= 0 || e.Len > s.layout.Bytes-at {
			return errs.E(errs.Other, "extent of %d bytes at %d does not continue the map at %d of %d", e.Len, e.Off, at, s.layout.Bytes)
		}
		if e.Kind == block.Data {
			s.set.AddRange(s.layout, e.Off, e.Len)
		}
		at = e.End()
	}
	if at != s.layout.Bytes {
		return errs.E(errs.Other, "the map of extents ends at %d of %d bytes", at, s.layout.Bytes)
	}
	return nil
}

// prepareZeroes stores what holes refer to, unless the base's is still there.
func (s *saver) prepareZeroes(ctx context.Context) (err error) {
	if s.zero.Segment, err = s.put(ctx, make([]byte, s.layout.Segment)); err != nil {
		return err
	}
	if b := s.src.Base; b != nil && b.zero.Segment == s.zero.Segment && b.layout.Group == s.layout.Group && s.present(ctx, b.zero.Group) {
		s.zero.Group = b.zero.Group
		return nil
	}
	s.zero.Group, err = s.zeroGroup(ctx, s.layout.Group)
	return err
}

// present tells whether a group of zeroes is stored as a whole. Its base need
// not refer to it, only name it: then maintenance may have freed it.
func (s *saver) present(ctx context.Context, group object.ID) bool {
	inner, ok := group.IndexObjectID()
	if !ok || !s.has(ctx, inner) {
		return false
	}
	entries, err := s.r.readIndex(ctx, inner, s.layout.Group/min(zeroPiece, s.layout.Group))
	if err != nil {
		return false
	}
	for _, e := range entries {
		if !s.has(ctx, e.Object) {
			return false
		}
	}
	return len(entries) > 0
}

// has tells whether an object that is one content is stored, and not marked as
// unused.
func (s *saver) has(ctx context.Context, id object.ID) bool {
	c, _, ok := id.ContentID()
	if !ok {
		return false
	}
	info, err := s.r.rep.ContentInfo(ctx, c)
	return err == nil && !info.Deleted
}

// zeroGroup stores a group of so many zero bytes. Its pieces are larger than
// segments, so that it costs nothing to say and little to read.
func (s *saver) zeroGroup(ctx context.Context, length int64) (object.ID, error) {
	piece := min(zeroPiece, length)
	id, err := s.put(ctx, make([]byte, piece))
	if err != nil {
		return id, err
	}
	var ids []object.ID
	for range length / piece {
		ids = append(ids, id)
	}
	if rest := length % piece; rest > 0 {
		if id, err = s.put(ctx, make([]byte, rest)); err != nil {
			return id, err
		}
		ids = append(ids, id)
	}
	return s.index(ctx, piece, length, ids)
}

// saveGroups stores all groups, several at once, and returns when nobody is at
// work any more.
func (s *saver) saveGroups(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		next atomic.Int64
		wg   sync.WaitGroup
	)
	for range min(2*runtime.GOMAXPROCS(0), 16) {
		wg.Go(func() {
			buf := make([]byte, max(runBytes, s.layout.Segment))
			for g := next.Add(1) - 1; g < s.layout.Groups() && ctx.Err() == nil; g = next.Add(1) - 1 {
				var err error
				if s.groups[g], err = s.group(ctx, g, buf); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// group stores a group, and returns its index.
func (s *saver) group(ctx context.Context, g int64, buf []byte) (object.ID, error) {
	from, to := s.layout.segments(g)
	if !s.set.any(from, to) {
		if s.src.Base == nil && s.layout.groupLen(g) == s.layout.Group {
			return s.zero.Group, nil
		}
		if s.isBaseGroup(g) {
			return s.src.Base.groups[g], nil
		}
	}
	ids, err := s.old(ctx, from, to)
	if err != nil {
		return object.EmptyID, err
	}
	for at := s.set.next(from, to); at < to; {
		end := s.set.end(at, to)
		if err := s.stretch(ctx, at, ids[at-from:end-from], buf); err != nil {
			return object.EmptyID, err
		}
		at = s.set.next(end, to)
	}
	if err := s.checkpoint(ctx); err != nil {
		return object.EmptyID, err
	}
	if s.layout.groupLen(g) == s.layout.Group && allAre(ids, s.zero.Segment) {
		return s.zero.Group, nil
	}
	return s.index(ctx, s.layout.Segment, s.layout.groupLen(g), ids)
}

func allAre(ids []object.ID, want object.ID) bool {
	for _, id := range ids {
		if id != want {
			return false
		}
	}
	return true
}

// isBaseGroup tells whether the base has a group of the same number and bounds.
func (s *saver) isBaseGroup(g int64) bool {
	b := s.src.Base
	return b != nil && b.layout.Group == s.layout.Group && g < b.layout.Groups() && b.layout.groupLen(g) == s.layout.groupLen(g)
}

// old returns what the segments [from, to) are as long as nothing is read:
// the base's, or zeroes. Those that have to be read may be missing.
func (s *saver) old(ctx context.Context, from, to int64) ([]object.ID, error) {
	ids := make([]object.ID, to-from)
	for i := range ids {
		n := from + int64(i)
		if s.src.Base == nil {
			ids[i] = s.zero.Segment
			continue
		}
		if n >= s.src.Base.layout.Segments() {
			break // a tail that is read
		}
		id, zero, err := s.src.Base.segment(ctx, n)
		if err != nil {
			return nil, err
		}
		if zero { // in a group of zeroes; the base may not say of which segment
			id = s.zero.Segment
		}
		ids[i] = id
	}
	if s.src.Base == nil && s.layout.segmentLen(to-1) < s.layout.Segment && !s.set.Has(to-1) {
		id, err := s.put(ctx, make([]byte, s.layout.segmentLen(to-1)))
		ids[len(ids)-1] = id
		return ids, err
	}
	return ids, nil
}

// askBytes is from how many changed bytes in a row on the device is asked
// whether they are a hole: what was discarded is, and need not be read. Asking
// costs what reading 100 KiB does.
const askBytes = 256 << 10

// stretch reads consecutive segments of a group, as much at a time as the
// buffer takes, and stores them. Those that are a hole are not read; where
// there is no base, the plan has left them out.
func (s *saver) stretch(ctx context.Context, first int64, ids []object.ID, buf []byte) error {
	holes := NewSet(0)
	if n := int64(len(ids)) * s.layout.Segment; s.src.Base != nil && n >= askBytes {
		var err error
		if holes, err = s.holes(first, int64(len(ids))); err != nil {
			return err
		}
	}
	most := int64(len(buf)) / s.layout.Segment
	for at, n := int64(0), int64(len(ids)); at < n; {
		if at < holes.n && holes.Has(at) && s.layout.segmentLen(first+at) == s.layout.Segment {
			if ids[at] != s.zero.Segment {
				s.changed.Add(s.layout.Segment)
				ids[at] = s.zero.Segment
			}
			s.progress(s.layout.Segment)
			at++
			continue
		}
		end := min(at+most, n)
		if holes.n > 0 {
			end = holes.next(at+1, end)
		}
		if err := s.run(ctx, first+at, ids[at:end], buf); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// holes returns which of n segments are holes as a whole, counted from the first.
func (s *saver) holes(first, n int64) (*Set, error) {
	data, off := NewSet(n), first*s.layout.Segment
	length := min(n*s.layout.Segment, s.layout.Bytes-off)
	for e, err := range s.src.Dev.Extents(off, length) {
		if err != nil {
			return nil, err
		}
		if e.Kind == block.Data {
			data.AddRange(s.layout, e.Off-off, e.Len)
		}
	}
	for i := range data.words {
		data.words[i] = ^data.words[i]
	}
	return data, nil
}

// run reads consecutive segments and stores them.
func (s *saver) run(ctx context.Context, first int64, ids []object.ID, buf []byte) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	off := first * s.layout.Segment
	buf = buf[:min(int64(len(ids))*s.layout.Segment, s.layout.Bytes-off)]
	if _, err := s.src.Dev.ReadAt(buf, off); err != nil {
		return err
	}
	n := int64(len(buf))
	s.read.Add(n)
	for i := range ids {
		b := buf[:min(int64(len(buf)), s.layout.Segment)]
		buf = buf[len(b):]
		id := s.zero.Segment
		if int64(len(b)) < s.layout.Segment || !isZero(b) {
			var err error
			if id, err = s.put(ctx, b); err != nil {
				return err
			}
		}
		if ids[i] != id {
			s.changed.Add(int64(len(b)))
			ids[i] = id
		}
	}
	s.progress(n)
	return nil
}

// put stores an object, if the repository has none with its hash.
func (s *saver) put(ctx context.Context, b []byte) (object.ID, error) {
	s.puts.Add(1)
	w := s.w.NewObjectWriter(ctx, object.WriterOptions{Splitter: splitter, Compressor: compressor, MetadataCompressor: indexCompressor})
	defer w.Close()
	if _, err := w.Write(b); err != nil {
		return object.EmptyID, err
	}
	return w.Result()
}

// index stores an index of objects of unit bytes each, size in all.
func (s *saver) index(ctx context.Context, unit, size int64, ids []object.ID) (object.ID, error) {
	x := newIndexWriter(ctx, s.w)
	defer x.close()
	for i, id := range ids {
		if err := x.add(min(unit, size-int64(i)*unit), id); err != nil {
			return object.EmptyID, err
		}
	}
	return x.result()
}

// checkpoint commits what was stored so far, if it is time: it bounds the
// memory that is taken, and what an interruption costs.
func (s *saver) checkpoint(ctx context.Context) error {
	if !s.mu.TryLock() {
		return nil // somebody is at it
	}
	defer s.mu.Unlock()
	if now := time.Now(); s.puts.Load()-s.counted < checkpointPuts && now.Before(s.next) {
		return nil
	}
	if err := s.w.Flush(ctx); err != nil {
		return err
	}
	s.counted = s.puts.Load()
	s.pause = min(2*s.pause, checkpointLast)
	s.next = time.Now().Add(s.pause)
	return s.r.flushSums(ctx)
}

// keepTime bounds how long what was stored is still committed after an
// interruption.
const keepTime = 30 * time.Second

// keep commits what an interrupted run has stored, so that the next need not
// store it again. It is best effort.
func (s *saver) keep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTime)
	defer cancel()
	if s.w.Flush(ctx) == nil {
		_ = s.r.flushSums(ctx)
	}
}

// isZero tells whether all bytes are zero.
func isZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeroBytes))
		if string(b[:n]) != string(zeroBytes[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

var zeroBytes [64 << 10]byte
