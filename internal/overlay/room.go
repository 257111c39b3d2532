package overlay

import (
	"errors"
	"sync"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/format/dmsnap"
	"cowl/internal/snap"
)

// aheadBytes is how much room is made at once. What is not used is given back
// when the overlay is closed.
const aheadBytes = 1 << 20

// room sees to it that the chunks that a write will take have their place in
// the file system before snap is asked for it: a store that could not be
// written would be invalid.
type room struct {
	dev    block.Device
	layout dmsnap.Layout
	store  *snap.Store
	// allocate is file.Device.Allocate; nil where the device has all its room.
	allocate func(off, length int64) error

	mu      sync.Mutex
	fewer   sync.Cond // claims
	claimed int64     // chunks that writes in flight may take
	ready   bool      // the current area has its place
	end     int64     // the byte up to which the rest has
}

func newRoom(dev block.Device, store *snap.Store, allocate func(off, length int64) error) *room {
	r := &room{dev: dev, layout: dmsnap.Layout{ChunkBytes: store.ChunkBytes()}, store: store, allocate: allocate}
	r.fewer.L = &r.mu
	r.end = store.Usage().Allocated
	return r
}

// claim makes room for a write to a range, or fails with errs.NoSpace. It
// returns how many chunks the write may take, which are to be released once it
// is done.
//
// Claims of writes to the same chunk count more than once. So where there is
// no room for all, each waits for the others before it fails.
func (r *room) claim(off, length int64) (chunks int64, err error) {
	if r.store.Lacking(off, length) == 0 {
		return 0, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		chunks = r.store.Lacking(off, length) // fewer each time
		err := r.reserve(r.claimed + chunks)
		if err == nil {
			r.claimed += chunks
			return chunks, nil
		}
		if r.claimed == 0 {
			return 0, err
		}
		r.fewer.Wait()
	}
}

func (r *room) release(chunks int64) {
	if chunks == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.claimed -= chunks
	r.fewer.Broadcast()
}

// reserve makes room for so many chunks behind the last that is taken.
func (r *room) reserve(chunks int64) error {
	u := r.store.Usage()
	next := uint64(u.Allocated / r.layout.ChunkBytes)
	need := r.layout.Off(r.layout.DataChunk(r.layout.DataIndex(next) + uint64(chunks)))
	if need > r.dev.Size() {
		return errs.WithHint(errs.E(errs.NoSpace, "the overlay is full: all %d bytes of its store are in use", r.dev.Size()),
			"Serve it again after truncate -s has made the file larger")
	}
	if r.allocate == nil {
		return nil
	}
	if !r.ready {
		if err := r.touch(uint64(u.Metadata/r.layout.ChunkBytes) - 2); err != nil { // see snap.Usage
			return err
		}
		r.ready = true
	}
	if need <= r.end {
		return nil
	}
	ahead := min(max(need, r.end+aheadBytes), r.dev.Size())
	err := r.extend(ahead)
	if errs.Is(err, errs.NoSpace) && need < ahead {
		err = r.extend(need)
	}
	return err
}

// touch gives the current area its place: in a new store it is a hole.
func (r *room) touch(area uint64) error {
	off, size := r.layout.Off(r.layout.AreaChunk(area)), r.layout.ChunkBytes
	err := r.allocate(off, size)
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	b := make([]byte, size)
	if _, err := r.dev.ReadAt(b, off); err != nil {
		return err
	}
	_, err = r.dev.WriteAt(b, off)
	return err
}

// extend makes room up to a byte; where the file system has no other way, by
// writing zeroes. Nothing is in use there.
func (r *room) extend(to int64) error {
	err := r.allocate(r.end, to-r.end)
	if errors.Is(err, errors.ErrUnsupported) {
		err = block.WriteZeroBytes(r.dev, r.end, to-r.end)
	}
	if err == nil {
		r.end = to
	}
	return err
}

// giveBack frees what was made in advance.
func (r *room) giveBack() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	used := r.store.Usage().Allocated
	if r.allocate == nil || used >= r.end {
		return nil
	}
	return r.dev.Discard(used, r.end-used)
}
