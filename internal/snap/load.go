package snap

import (
	"fmt"
	"sync"

	"cowl/internal/errs"
	"cowl/internal/format/dmsnap"
)

const (
	// aloneAreas is how many areas are read one by one: most stores have few.
	aloneAreas = 8

	// aheadAreas and aheadBytes bound how much is read ahead of what is known
	// to be full. Areas lie far apart, so that a disk takes its time for each
	// unless it is asked for many at once.
	aheadAreas = 2048
	aheadBytes = 8 << 20

	// pileEntries is how many exceptions are sorted and entered at once, at
	// least; for the cost to stay in proportion it is also a quarter of those
	// that have been entered.
	pileEntries = 1 << 20

	// readers is how many areas are read at once.
	readers = 32
)

// load reads the areas up to the first that is not full, as the kernel's
// read_exceptions does, and derives the next free chunk.
func (s *Store) load() error {
	l := loader{store: s, pile: newPile(s.chunks)}
	areas := s.layout.AreasBelow(s.chunks)
	for n, first := uint64(1), uint64(0); first < areas; first += n {
		if first >= aloneAreas {
			n = uint64(max(1, min(aheadAreas, aheadBytes/s.layout.ChunkBytes, 2*int64(first))))
		}
		n = min(n, areas-first)
		if more, err := l.window(first, int(n)); err != nil || !more {
			return err
		}
	}
	return errs.E(errs.Corrupt, "load exception store: area %d would be behind the device's %d chunks, and those before it are full", areas, s.chunks)
}

// loader reads a store's areas and builds its index, a window of areas at a
// time. Sorted, the exceptions of a window go into the index several times
// faster than one by one in the order of the store.
type loader struct {
	store *Store
	areas []byte
	errs  []error
	pile  *pile
}

// window loads n areas and reports whether there are more.
func (l *loader) window(first uint64, n int) (more bool, err error) {
	s := l.store
	l.read(first, n)
	full := true
	for i := 0; i < n && full; i++ {
		if err := l.errs[i]; err != nil {
			return false, fmt.Errorf("read exception area %d: %w", first+uint64(i), err)
		}
		area := l.areas[i*len(s.area):][:len(s.area)]
		s.areaNo, s.used = first+uint64(i), dmsnap.Used(area)
		copy(s.area, area)
		if err := l.decode(); err != nil {
			return false, err
		}
		full = s.used == s.layout.PerArea()
	}
	if full && len(l.pile.list) < max(pileEntries, s.index.count/4) {
		return true, nil
	}
	return full, l.enter()
}

// read reads n areas. An error is for the area that it belongs to: one behind the
// current area does not matter.
func (l *loader) read(first uint64, n int) {
	s := l.store
	size := len(s.area)
	if len(l.areas) < n*size {
		l.areas, l.errs = make([]byte, n*size), make([]error, n)
	}
	one := func(i int) {
		_, l.errs[i] = s.dev.ReadAt(l.areas[i*size:][:size], s.layout.Off(s.layout.AreaChunk(first+uint64(i))))
	}
	if n == 1 {
		one(0)
		return
	}
	var wg sync.WaitGroup
	for r := range min(readers, n) {
		wg.Go(func() {
			for i := r; i < n; i += readers {
				one(i)
			}
		})
	}
	wg.Wait()
}

// decode adds the current area's exceptions to the pile.
func (l *loader) decode() error {
	s := l.store
	l.pile.reserve(s.used)
	for i := range s.used {
		e := dmsnap.Entry(s.area, i)
		if err := s.checkEntry(e); err != nil {
			return fmt.Errorf("exception area %d, entry %d: %w", s.areaNo, i, err)
		}
		s.next = max(s.next, e.New+1)
		if !l.pile.add(e) && !s.index.insert(e) {
			return s.errTwice(e.Old)
		}
	}
	return nil
}

// enter puts the pile into the index.
func (l *loader) enter() error {
	s := l.store
	if old, ok := s.index.insertAll(l.pile); !ok {
		return s.errTwice(old)
	}
	s.next = s.layout.SkipMetadata(s.next)
	return nil
}

func (s *Store) errTwice(old uint64) error {
	return errs.E(errs.Corrupt, "exception store: chunk %d of the origin is excepted twice, in areas 0 to %d", old, s.areaNo)
}

func (s *Store) checkEntry(e dmsnap.Exception) error {
	if e.New >= maxChunks && e.New < s.layout.Chunks(s.dev.Size()) {
		return errs.E(errs.Unsupported, "cowl cannot use chunk %d of the COW device, only the first 2^32", e.New)
	}
	if e.New >= s.chunks || !s.layout.IsData(e.New) {
		return errs.E(errs.Corrupt, "chunk %d of the COW device's %d cannot hold data", e.New, s.chunks)
	}
	if e.Old >= maxOrigin/uint64(s.layout.ChunkBytes) {
		return errs.E(errs.Corrupt, "chunk %d is behind every device's end", e.Old)
	}
	return nil
}
