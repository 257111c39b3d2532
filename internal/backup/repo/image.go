package repo

import (
	"context"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/kopia/kopia/repo/object"

	"cowl/internal/block"
	"cowl/internal/errs"
)

// Image is the content of a stored image: a block.Device that can be read
// only. What was a hole or all zero in the volume is a hole here.
type Image struct {
	r      *Repo
	layout Layout
	root   object.ID
	zero   zeroes
	groups []object.ID

	mu     sync.Mutex
	leaves cache[int64, []object.ID] // by group; guarded by mu
	data   cache[int64, []byte]      // by segment; guarded by mu
}

// zeroes are the objects that are known to hold nothing but zeroes.
type zeroes struct {
	Segment object.ID // a whole segment
	Group   object.ID // a whole group
}

// What an open image keeps in memory, in groups and segments. A group's index
// takes some 12 KiB here, and a millisecond to read.
const (
	leavesKept   = 256
	segmentsKept = 8
)

var _ block.Device = (*Image)(nil)

// openImage opens an object as an image.
func (r *Repo) openImage(ctx context.Context, root object.ID, l Layout, z zeroes) (*Image, error) {
	if err := l.Validate(); err != nil {
		return nil, err
	}
	groups, err := r.loadIndex(ctx, root, l.Group, l.Bytes)
	if err != nil {
		return nil, err
	}
	return &Image{r: r, layout: l, root: root, zero: z, groups: groups,
		leaves: newCache[int64, []object.ID](leavesKept), data: newCache[int64, []byte](segmentsKept)}, nil
}

// Layout returns how the image is cut.
func (m *Image) Layout() Layout { return m.layout }

// leaf returns the segments of a group.
func (m *Image) leaf(ctx context.Context, g int64) ([]object.ID, error) {
	m.mu.Lock()
	ids, ok := m.leaves.get(g)
	m.mu.Unlock()
	if ok {
		return ids, nil
	}
	ids, err := m.r.loadIndex(ctx, m.groups[g], m.layout.Segment, m.layout.groupLen(g))
	if err != nil {
		return nil, fmt.Errorf("group %d: %w", g, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leaves.put(g, ids)
	return ids, nil
}

// isZeroGroup tells whether a group is known to hold only zeroes.
func (m *Image) isZeroGroup(g int64) bool {
	return m.groups[g] == m.zero.Group && m.layout.groupLen(g) == m.layout.Group
}

// segment returns the object of a segment, and whether it is known to hold
// only zeroes.
func (m *Image) segment(ctx context.Context, s int64) (id object.ID, zero bool, err error) {
	perGroup := m.layout.Group / m.layout.Segment
	g := s / perGroup
	if m.isZeroGroup(g) {
		return m.zero.Segment, true, nil
	}
	ids, err := m.leaf(ctx, g)
	if err != nil {
		return object.EmptyID, false, err
	}
	id = ids[s%perGroup]
	return id, id == m.zero.Segment && m.layout.segmentLen(s) == m.layout.Segment, nil
}

// read returns the bytes of a segment, which the caller must not change.
func (m *Image) read(ctx context.Context, s int64) ([]byte, error) {
	m.mu.Lock()
	b, ok := m.data.get(s)
	m.mu.Unlock()
	if ok {
		return b, nil
	}
	id, _, err := m.segment(ctx, s)
	if err != nil {
		return nil, err
	}
	b = make([]byte, m.layout.segmentLen(s))
	if err := m.r.readObject(ctx, id, b); err != nil {
		return nil, fmt.Errorf("segment %d (bytes %d to %d of the image): %w", s, s*m.layout.Segment, s*m.layout.Segment+int64(len(b))-1, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data.put(s, b)
	return b, nil
}

// readObject reads an object of exactly len(b) bytes.
func (r *Repo) readObject(ctx context.Context, id object.ID, b []byte) error {
	o, err := r.rep.OpenObject(ctx, id)
	if err != nil {
		return r.damage(ctx, r.locate(ctx, id, err))
	}
	defer o.Close()
	if o.Length() != int64(len(b)) {
		return errs.E(errs.Corrupt, "object %s has %d bytes instead of %d", id, o.Length(), len(b))
	}
	_, err = io.ReadFull(o, b)
	return r.damage(ctx, err)
}

// locate says in which blob an object is that could not be read.
func (r *Repo) locate(ctx context.Context, id object.ID, err error) error {
	cid, _, ok := id.ContentID()
	if !ok {
		return err
	}
	info, infoErr := r.rep.ContentInfo(ctx, cid)
	if infoErr != nil {
		return err
	}
	return fmt.Errorf("blob %s is damaged or missing: %w", info.PackBlobID, err)
}

// ReadAt implements block.Device.
func (m *Image) ReadAt(p []byte, off int64) (int, error) {
	if err := block.CheckRange(off, int64(len(p)), m.layout.Bytes); err != nil {
		return 0, err
	}
	ctx := context.Background() // a device's reads are not cancelled one by one
	done := 0
	for done < len(p) {
		at := off + int64(done)
		s := at / m.layout.Segment
		if _, zero, err := m.segment(ctx, s); err != nil {
			return done, err
		} else if zero {
			n := min(int64(len(p)-done), (s+1)*m.layout.Segment-at)
			clear(p[done : done+int(n)])
			done += int(n)
			continue
		}
		b, err := m.read(ctx, s)
		if err != nil {
			return done, err
		}
		done += copy(p[done:], b[at-s*m.layout.Segment:])
	}
	return done, nil
}

// Extents implements block.Device.
func (m *Image) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		if err := block.CheckRange(off, length, m.layout.Bytes); err != nil {
			yield(block.Extent{}, err)
			return
		}
		end := off + length
		for at := off; at < end; {
			e, err := m.extent(at, end)
			if err != nil {
				yield(block.Extent{}, err)
				return
			}
			if !yield(e, nil) {
				return
			}
			at = e.End()
		}
	}
}

// extent returns the extent that begins at a byte and ends with its segment,
// or its group if that is a hole.
func (m *Image) extent(at, end int64) (block.Extent, error) {
	e := block.Extent{Off: at, Kind: block.Hole}
	if g := at / m.layout.Group; m.isZeroGroup(g) {
		e.Len = min((g+1)*m.layout.Group, end) - at
		return e, nil
	}
	s := at / m.layout.Segment
	_, zero, err := m.segment(context.Background(), s)
	if !zero {
		e.Kind = block.Data
	}
	e.Len = min((s+1)*m.layout.Segment, end) - at
	return e, err
}

// Size implements block.Device.
func (m *Image) Size() int64 { return m.layout.Bytes }

// Caps implements block.Device.
func (m *Image) Caps() block.Caps { return block.Caps{ReadOnly: true, BlockSize: block.SectorSize} }

// WriteAt implements block.Device.
func (m *Image) WriteAt([]byte, int64) (int, error) { return 0, block.ErrReadOnly }

// WriteZeroes implements block.Device.
func (m *Image) WriteZeroes(int64, int64) error { return block.ErrReadOnly }

// Discard implements block.Device.
func (m *Image) Discard(int64, int64) error { return block.ErrReadOnly }

// Flush implements block.Device.
func (m *Image) Flush() error { return nil }

// Close implements block.Device. The repository stays open.
func (m *Image) Close() error { return nil }

// cache keeps the values that were used last.
type cache[K comparable, V any] struct {
	size int
	m    map[K]V
	old  []K // in the order of their last use, the latest last
}

func newCache[K comparable, V any](size int) cache[K, V] {
	return cache[K, V]{size: size, m: make(map[K]V, size)}
}

func (c *cache[K, V]) get(k K) (V, bool) {
	v, ok := c.m[k]
	if ok {
		c.touch(k)
	}
	return v, ok
}

func (c *cache[K, V]) put(k K, v V) {
	if _, ok := c.m[k]; !ok && len(c.m) == c.size {
		delete(c.m, c.old[0])
		c.old = c.old[1:]
	}
	c.m[k] = v
	c.touch(k)
}

func (c *cache[K, V]) touch(k K) {
	for i, o := range c.old {
		if o == k {
			copy(c.old[i:], c.old[i+1:])
			c.old[len(c.old)-1] = k
			return
		}
	}
	c.old = append(c.old, k)
}
