package blocktest

import (
	"sync"
	"testing"

	"cowl/internal/block"
)

// parallel has writers in stripes that share sectors and pages with their
// neighbours; a flusher and a walker of extents run along.
func (s *suite) parallel(t *testing.T) {
	const writers, rounds = 4, 30
	d := s.device(t)
	defer closed(t, d)
	stripe := int64(333)
	if s.size > 300_000 {
		stripe = 7777
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for round := range rounds {
				s.writeStripes(t, d, w, writers, stripe, round)
			}
		})
	}
	wg.Go(func() {
		for range rounds {
			if err := d.Flush(); err != nil {
				t.Errorf("Flush() = %v", err)
			}
			if _, err := collect(d, 0, s.size); err != nil {
				t.Errorf("Extents: %v", err)
			}
		}
	})
	wg.Wait()

	got, want := ReadAll(t, d), make([]byte, s.size)
	for at := int64(0); at < s.size; at += stripe {
		part := want[at:min(at+stripe, s.size)]
		pattern(part, at, rounds-1)
	}
	if diff := differ(got, want); diff != "" {
		t.Errorf("after parallel writes in stripes of %d bytes: %s", stripe, diff)
	}
}

// writeStripes writes every writers-th stripe and reads it back.
func (s *suite) writeStripes(t *testing.T, d block.Device, w, writers int, stripe int64, round int) {
	p, q := make([]byte, stripe), make([]byte, stripe)
	for at := int64(w) * stripe; at < s.size; at += int64(writers) * stripe {
		n := min(stripe, s.size-at)
		pattern(p[:n], at, round)
		var err error
		if round%3 == 1 { // over zeroes, so that holes are filled in parallel
			err = d.WriteZeroes(at, n)
		}
		if err == nil {
			_, err = d.WriteAt(p[:n], at)
		}
		if err == nil {
			_, err = d.ReadAt(q[:n], at)
		}
		if err != nil {
			t.Errorf("stripe at %d: %v", at, err)
			return
		}
		if diff := differ(q[:n], p[:n]); diff != "" {
			t.Errorf("stripe at %d, round %d: own write not read back: %s", at, round, diff)
			return
		}
	}
}

// neighbours has writers hammer parts of one page that touch each other. A
// device that reads, modifies and writes back more than it was asked to, and
// does not lock that, loses somebody's update.
func (s *suite) neighbours(t *testing.T) {
	const writers, rounds = 4, 1000
	part := min(s.size, 4096) / writers
	if part == 0 {
		t.Skip("no room for several writers")
	}
	d := s.device(t)
	defer closed(t, d)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			off := int64(w) * part
			p, q := make([]byte, part), make([]byte, part)
			for round := range rounds {
				pattern(p, off, round)
				_, err := d.WriteAt(p, off)
				if err == nil {
					_, err = d.ReadAt(q, off)
				}
				if err != nil {
					t.Errorf("part at %d: %v", off, err)
					return
				}
				if diff := differ(q, p); diff != "" {
					t.Errorf("part at %d, round %d: own write is not read back, a neighbour's has undone it: %s", off, round, diff)
					return
				}
			}
		})
	}
	wg.Wait()
}
