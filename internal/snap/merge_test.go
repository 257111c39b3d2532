package snap

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"cowl/internal/block/blocktest"
	"cowl/internal/block/crash"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
)

// A merge under load: writers own a stripe each and know what it holds, and a
// sibling snapshot must not notice anything.
func TestMergeUnderLoad(t *testing.T) {
	const size, writers = 4 << 20, 4
	seed := blocktest.Seed(t)
	o := NewOrigin(mem.New(size), OriginOptions{})
	s := newStore(t, size, 4096)
	n := attach(t, o, s)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 1500 {
		if _, err := n.WriteAt([]byte{7}, rng.Int64N(size)); err != nil {
			t.Fatal(err)
		}
	}
	sibling := attach(t, o, newStore(t, size, 16<<10))
	frozen := blocktest.ReadAll(t, sibling)
	if err := o.StartMerge(s, o.Size()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.ReadAt(make([]byte, 1), 0); !errs.Is(err, errs.Conflict) {
		t.Errorf("a merging snapshot was read: %v", err)
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for w := range int64(writers) {
		wg.Go(func() { ownStripe(t, o, w*size/writers, size/writers, rand.New(rand.NewPCG(seed, uint64(w)+1)), stop) })
	}
	for left, err := 1, error(nil); left > 0; {
		if left, err = o.MergeStep(); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.FinishMerge(); err != nil {
		t.Fatal(err)
	}
	close(stop)
	wg.Wait()
	if !bytes.Equal(frozen, blocktest.ReadAll(t, sibling)) {
		t.Error("the sibling snapshot changed")
	}
}

// ownStripe writes to a stripe of the origin and reads back what it knows of it.
func ownStripe(t *testing.T, o *Origin, off, size int64, rng *rand.Rand, stop chan struct{}) {
	mine := make([]byte, size)
	if _, err := o.ReadAt(mine, off); err != nil {
		t.Error(err)
	}
	got := make([]byte, size)
	for gen := byte(0); ; gen++ {
		at := rng.Int64N(size - 10_000)
		p := mine[at : at+1+rng.Int64N(9000)]
		for i := range p {
			p[i] = gen
		}
		if _, err := o.WriteAt(p, off+at); err != nil {
			t.Error(err)
		}
		if _, err := o.ReadAt(got, off); err != nil || !bytes.Equal(got, mine) {
			t.Errorf("stripe at %d differs (%v)", off, err)
			return
		}
		select {
		case <-stop:
			return
		default:
		}
	}
}

func TestMergeRefusals(t *testing.T) {
	o := NewOrigin(mem.New(1<<20), OriginOptions{})
	if err := o.FinishMerge(); !errs.Is(err, errs.Conflict) {
		t.Errorf("finish without a merge: %v", err)
	}
	if _, err := o.MergeStep(); !errs.Is(err, errs.Conflict) {
		t.Errorf("step without a merge: %v", err)
	}
	dead := attach(t, o, openStore(t, mem.New(3*4096), 4096))
	for i := range int64(3) {
		if _, err := o.WriteAt([]byte{1}, i*4096); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.StartMerge(dead.Store(), o.Size()); !errs.Is(err, errs.Conflict) {
		t.Errorf("merge of an invalid snapshot: %v", err)
	}
	s := newStore(t, 1<<20, 4096)
	if _, err := attach(t, o, s).WriteAt([]byte{1}, 0); err != nil {
		t.Fatal(err)
	}
	if err := o.StartMerge(s, o.Size()); err != nil {
		t.Fatal(err)
	}
	if err := o.FinishMerge(); !errs.Is(err, errs.Conflict) {
		t.Errorf("finish with exceptions left: %v", err)
	}
	if err := o.StartMerge(newStore(t, 1<<20, 4096), o.Size()); !errs.Is(err, errs.Conflict) {
		t.Errorf("second merge: %v", err)
	}
}

// A merge step that fails says so in the usage, and a later one goes on.
func TestMergeGoesOnAfterAnError(t *testing.T) {
	w := crash.NewWorld()
	origin, cow := w.NewDisk("origin", 1<<20), w.NewDisk("cow", 1<<20)
	o := NewOrigin(origin, OriginOptions{})
	s := openStore(t, cow, 4096)
	if _, err := attach(t, o, s).WriteAt([]byte("new"), 5*4096); err != nil {
		t.Fatal(err)
	}
	if err := o.StartMerge(s, o.Size()); err != nil {
		t.Fatal(err)
	}
	w.FailAt(w.Ops()+1, errInjected)
	if _, err := o.MergeStep(); !errors.Is(err, errInjected) || !s.Usage().MergeFailed {
		t.Fatalf("%v, %+v", err, s.Usage())
	}
	if left, err := o.MergeStep(); left != 0 || err != nil || s.Usage().MergeFailed {
		t.Fatalf("%d %v, %+v", left, err, s.Usage())
	}
	got := make([]byte, 3)
	if _, err := origin.ReadAt(got, 5*4096); err != nil || string(got) != "new" {
		t.Fatalf("%q %v", got, err)
	}
}

// An origin that has grown since its snapshot was taken keeps what is behind
// the snapshot's end, also where the last chunk reaches beyond it.
func TestMergeKeepsWhatLiesBehindTheSnapshot(t *testing.T) {
	const size, chunk = 32 << 10, 8 << 10
	for name, write := range map[string]func(o *Origin, n *Snapshot) error{
		"the origin's write": func(o *Origin, n *Snapshot) error {
			_, err := o.WriteAt(bytes.Repeat([]byte{2}, 4096), 8<<10)
			return err
		},
		"the snapshot's": func(o *Origin, n *Snapshot) error {
			_, err := n.WriteAt(bytes.Repeat([]byte{2}, 4096), 8<<10)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			dev := mem.New(size)
			o := NewOrigin(dev, OriginOptions{Manual: true})
			if _, err := o.WriteAt(bytes.Repeat([]byte{1}, size), 0); err != nil {
				t.Fatal(err)
			}
			s := newStore(t, 1<<20, chunk)
			n, err := o.Attach(s, 12<<10, false) // one chunk and a half
			if err != nil {
				t.Fatal(err)
			}
			if err := write(o, n); err != nil {
				t.Fatal(err)
			}
			o.Settle()
			if _, err := o.WriteAt(bytes.Repeat([]byte{3}, size-12<<10), 12<<10); err != nil {
				t.Fatal(err)
			}
			if err := o.Flush(); err != nil {
				t.Fatal(err)
			}
			want := append(blocktest.ReadAll(t, n), bytes.Repeat([]byte{3}, size-12<<10)...)
			if err := o.StartMerge(s, n.Size()); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(blocktest.ReadAll(t, o), want) {
				t.Error("the merging origin does not show the snapshot and what lies behind it")
			}
			if _, err := o.MergeStep(); err != nil {
				t.Fatal(err)
			}
			if err := o.FinishMerge(); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(blocktest.ReadAll(t, dev), want) {
				t.Error("the merged origin does not hold the snapshot and what lies behind it")
			}
		})
	}
}

// What is written while a merge is about to begin may make the snapshot
// overflow; then it does not begin.
func TestNoMergeOfWhatOverflowsMeanwhile(t *testing.T) {
	cow := &hooked{Device: mem.New(4 * 4096), before: map[string]func(){}}
	o := NewOrigin(mem.New(1<<20), OriginOptions{Manual: true})
	s := openStore(t, cow, 4096)
	attach(t, o, s)
	write := func(off int64) {
		if _, err := o.WriteAt(bytes.Repeat([]byte{1}, 4096), off); err != nil {
			t.Error(err)
		}
	}
	write(0)
	cow.before["write"] = func() { write(8192); write(16384) } // two more than there is room for
	if err := o.StartMerge(s, o.Size()); !errs.Is(err, errs.Conflict) {
		t.Errorf("StartMerge = %v with the store %+v", err, s.Usage())
	}
}
