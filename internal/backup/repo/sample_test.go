package repo

import (
	"testing"

	"cowl/internal/block/mem"
	"cowl/internal/errs"
)

// A change list that is not of the image it is said to be of must be found,
// however little of it is compared, where file systems write: at the beginning.
func TestSampleFindsAWrongBase(t *testing.T) {
	r := made(t, t.TempDir())
	const size = 40*mib + 3000
	dev := volume(t, size)
	base, _, err := r.Image(ctx, stored(t, r, Source{Dev: dev}))
	if err != nil {
		t.Fatal(err)
	}
	l := base.Layout()
	changed := NewSet(l.Segments())
	write(t, dev, changed, l, 10*mib, noise(1, 100<<10))
	for _, n := range []int{0, 1, 2, 32, 10000} {
		got, err := base.Sample(ctx, dev, changed, n)
		if err != nil || got > n || n > 0 && got == 0 || n == 10000 && got < 100 {
			t.Errorf("of %d segments %d were compared: %v", n, got, err)
		}
	}
	for _, off := range []int64{0, size - 1} {
		write(t, dev, nil, l, off, []byte{77})
		if _, err := base.Sample(ctx, dev, changed, 2); !errs.Is(err, errs.Conflict) {
			t.Errorf("a change at %d that nobody told of: %v", off, err)
		}
		write(t, dev, changed, l, off, []byte{78})
		if _, err := base.Sample(ctx, dev, changed, 10000); err != nil {
			t.Errorf("a change at %d that is on the list: %v", off, err)
		}
	}
	// A volume that has grown has another last segment than its image.
	longer := mem.New(size + mib)
	if _, err := longer.WriteAt(bytesOf(t, dev), 0); err != nil {
		t.Fatal(err)
	}
	changed = NewSet(NewLayout(longer.Size(), l.Segment).Segments())
	changed.AddRange(l, 10*mib, 100<<10)
	changed.AddRange(l, 0, 1)
	changed.AddRange(l, size-1, 1)
	if _, err := base.Sample(ctx, longer, changed, 10000); err != nil {
		t.Errorf("of a volume that has grown: %v", err)
	}
}

// What was discarded since the base was made has changed, and is not read.
func TestIncrementReadsNoHoles(t *testing.T) {
	r := made(t, t.TempDir())
	const size = 24*mib + 3000
	dev := mem.New(size)
	write(t, dev, nil, Layout{}, 0, noise(1, size))
	base, _, err := r.Image(ctx, stored(t, r, Source{Dev: dev}))
	if err != nil {
		t.Fatal(err)
	}
	l := base.Layout()
	changed := NewSet(l.Segments())
	for _, g := range []struct{ off, n int64 }{{3*mib + 1000, 10 * mib}, {15 * mib, 65536}, {size - 2*mib, 2 * mib}} {
		if err := dev.WriteZeroes(g.off, g.n); err != nil {
			t.Fatal(err)
		}
		changed.AddRange(l, g.off, g.n)
	}
	write(t, dev, changed, l, 8*mib+5, noise(2, 200<<10))
	write(t, dev, changed, l, 18*mib, noise(3, 300<<10))
	rec := record()
	last, total := int64(0), int64(0)
	b, err := r.Store(ctx, Source{Dev: dev, Base: base, Changed: changed}, rec, nil, StoreOptions{Progress: func(done, all int64) {
		last, total = max(last, done), all
	}})
	if err != nil {
		t.Fatal(err)
	}
	compare(t, r, b, dev)
	if rec.Stats.Read > 2*mib || rec.Stats.Changed < 12*mib || rec.Stats.Written > mib {
		t.Errorf("12 MiB were discarded and 500 KiB written: %+v", rec.Stats)
	}
	if last != total {
		t.Errorf("progress ended at %d of %d", last, total)
	}
}
