//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/snap"
)

// engine is cowl's side.
type engine struct {
	t      *testing.T
	stack  *stack
	origin *snap.Origin
	cows   map[int]block.Device
	snaps  map[int]*snap.Snapshot

	rng     *rand.Rand
	merging int // the merging snapshot
	left    int // its exceptions
	stored  int // how many there were at the start
}

func (e *engine) name() string { return "cowl" }

func (e *engine) must(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatalf("cowl: %v", err)
	}
}

func (e *engine) openFile(path string) block.Device {
	e.t.Helper()
	d, err := file.Open(path, file.Options{Lock: file.Exclusive})
	e.must(err)
	return d
}

func (e *engine) open(s *stack, snapshots ...int) {
	e.t.Helper()
	e.stack = s
	e.origin = snap.NewOrigin(e.openFile(s.origin), snap.OriginOptions{})
	e.cows = map[int]block.Device{}
	e.snaps = map[int]*snap.Snapshot{}
	for _, i := range snapshots {
		e.attach(i)
	}
}

// store opens a snapshot's COW device.
func (e *engine) store(i int) *snap.Store {
	e.t.Helper()
	if e.cows[i] == nil {
		e.cows[i] = e.openFile(e.stack.cows[i])
	}
	store, err := snap.Open(e.cows[i], snap.Options{ChunkBytes: e.stack.chunk})
	e.must(err)
	return store
}

func (e *engine) attach(i int) {
	e.t.Helper()
	var err error
	e.snaps[i], err = e.origin.Attach(e.store(i), e.origin.Size(), false)
	e.must(err)
}

func (e *engine) shut() {
	e.t.Helper()
	for _, s := range e.snaps {
		e.must(s.Close())
	}
	e.must(e.origin.Flush())
	for _, c := range e.cows {
		e.must(errors.Join(c.Flush(), c.Close()))
	}
	e.must(e.origin.Close())
}

func (e *engine) create(i int) {
	e.t.Helper()
	d := e.openFile(e.stack.cows[i])
	e.must(snap.Format(d, e.stack.chunk))
	e.cows[i] = d
	e.attach(i)
}

func (e *engine) remove(i int) {
	e.t.Helper()
	e.must(errors.Join(e.snaps[i].Close(), e.cows[i].Close()))
	delete(e.snaps, i)
	delete(e.cows, i)
}

func (e *engine) dev(i int) block.Device {
	if i < 0 {
		return e.origin
	}
	return e.snaps[i]
}

func (e *engine) write(ws []write) error {
	var failed error
	for _, w := range ws {
		_, err := e.dev(w.dev).WriteAt(w.data, w.off)
		failed = errors.Join(failed, err)
	}
	return errors.Join(failed, e.origin.Flush())
}

func (e *engine) discard(off, length int64) {
	e.t.Helper()
	e.must(e.origin.Discard(off, length))
}

func (e *engine) zero(dev int, off, length int64) error {
	return errors.Join(e.dev(dev).WriteZeroes(off, length), e.origin.Flush())
}

func (e *engine) read(dev int) ([]byte, error) {
	d := e.dev(dev)
	data := make([]byte, d.Size())
	_, err := d.ReadAt(data, 0)
	return data, err
}

func (e *engine) status(i int) string {
	u := e.snaps[i].Store().Usage()
	if u.Invalid {
		return "Invalid"
	}
	return fmt.Sprintf("%d/%d %d", sectors(u.Allocated), sectors(u.Total), sectors(u.Metadata))
}

func (e *engine) merge(i int) {
	e.t.Helper()
	store := e.snaps[i].Store()
	delete(e.snaps, i)
	e.startMerge(i, store)
}

func (e *engine) startMerge(i int, store *snap.Store) {
	e.t.Helper()
	e.merging = i
	e.stored = store.Count()
	e.left = e.stored
	e.must(e.origin.StartMerge(store, e.origin.Size()))
}

// mergeSome stops anywhere: a kernel must be able to go on behind a step of any
// size.
func (e *engine) mergeSome() {
	e.t.Helper()
	if e.stored < 2 {
		e.t.Fatalf("cowl: a merge of %d exceptions cannot be stopped in the middle", e.stored)
	}
	for stop := 1 + e.rng.IntN(e.stored-1); e.left > stop; {
		e.step(e.left - stop)
	}
	e.shut() // the order of a merge step makes a kill no different; package snap cuts its power
}

func (e *engine) mergePause() {
	e.t.Helper()
	for range e.rng.IntN(4) {
		if e.left > 0 {
			e.step(e.left)
		}
	}
	e.shut()
}

func (e *engine) mergeAll() {
	e.t.Helper()
	for e.left > 0 {
		e.step(e.left)
	}
	e.must(e.origin.FinishMerge())
	e.must(e.cows[e.merging].Close())
	delete(e.cows, e.merging)
}

// step merges some exceptions, at most so many: what is in the last area if
// that is all.
func (e *engine) step(most int) {
	e.t.Helper()
	if most < e.left || e.rng.IntN(2) == 0 {
		e.origin.LimitMergeStep(int64(1+e.rng.IntN(most)) * e.stack.chunk)
	} else {
		e.origin.LimitMergeStep(math.MaxInt64)
	}
	left, err := e.origin.MergeStep()
	e.must(err)
	if left >= e.left || left < e.left-most {
		e.t.Fatalf("cowl: a merge step for %d left %d of %d exceptions", most, left, e.left)
	}
	e.left = left
}

func (e *engine) openMerging(s *stack, merging int, snapshots ...int) {
	e.t.Helper()
	e.open(s, snapshots...)
	e.startMerge(merging, e.store(merging))
}
