package repo

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/kopia/kopia/repo/blob"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
)

// inMemory makes a repository in a store in memory, and opens it.
func inMemory(t testing.TB) (*Repo, *memStore) {
	t.Helper()
	s := newMemStore()
	if err := Init(ctx, Store{Storage: s}, password, quick); err != nil {
		t.Fatal(err)
	}
	return openStore(t, s), s
}

func openStore(t testing.TB, s blob.Storage) *Repo {
	t.Helper()
	o := Options{}
	if m, ok := s.(*memStore); ok {
		o.now = m.now
	}
	r, err := Open(ctx, Store{Storage: s}, password, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(ctx) })
	return r
}

// Images of any size and segment size come back as they were, full ones and
// increments, of volumes that change, grow and shrink in between; and an
// increment reads what changed and nothing else.
func TestIncrements(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r, _ := inMemory(t)
	for _, segment := range []int64{4 << 10, 64 << 10, 1 << 20} {
		size := 20*mib + rng.Int64N(20*mib)/512*512
		dev := volume(t, size)
		last, err := r.Store(ctx, Source{Dev: dev}, record(), nil, StoreOptions{Segment: segment})
		if err != nil {
			t.Fatal(err)
		}
		compare(t, r, last, dev)
		for range 6 {
			base, _, err := r.Image(ctx, last)
			if err != nil {
				t.Fatal(err)
			}
			if rng.IntN(3) == 0 { // another size, with what fits of the old content
				size = max(mib, size+rng.Int64N(40*mib)-20*mib) / 512 * 512
				next := mem.New(size)
				old := bytesOf(t, dev)
				write(t, next, nil, Layout{}, 0, old[:min(int64(len(old)), size)])
				dev = next
			}
			l := NewLayout(size, segment)
			changed := NewSet(l.Segments())
			for range rng.IntN(5) {
				b := noise(byte(rng.Uint32()), 1+rng.IntN(300<<10))
				if rng.IntN(4) == 0 {
					clear(b)
				}
				if off := rng.Int64N(size); off+int64(len(b)) <= size {
					write(t, dev, changed, l, off, b)
				}
			}
			read := &counted{Device: dev}
			rec := record()
			b, err := r.Store(ctx, Source{Dev: read, Base: base, Changed: changed}, rec, nil, StoreOptions{})
			if err != nil {
				t.Fatal(err)
			}
			compare(t, r, b, dev)
			grown := size - base.Layout().Bytes
			if most := changed.bytes(l) + max(0, grown) + 2*segment; read.n.Load() > most {
				t.Errorf("read %d bytes where at most %d changed", read.n.Load(), most)
			}
			if rec.Stats.Read != read.n.Load() {
				t.Errorf("says that it read %d bytes of %d", rec.Stats.Read, read.n.Load())
			}
			last = b
		}
	}
	if v, err := r.Verify(ctx, VerifyOptions{}); err != nil {
		t.Errorf("%v: %+v", err, v)
	}
}

// counted counts the bytes that are read.
type counted struct {
	block.Device
	n atomic.Int64
}

func (c *counted) ReadAt(b []byte, off int64) (int, error) {
	c.n.Add(int64(len(b)))
	return c.Device.ReadAt(b, off)
}

// What is the same is stored once, whoever it comes from; holes and zeroes
// cost nothing worth counting.
func TestDeduplication(t *testing.T) {
	r, _ := inMemory(t)
	dev := mem.New(1 << 40)
	write(t, dev, nil, Layout{}, 5<<30, noise(1, 4*mib))
	if err := block.WriteZeroBytes(dev, 7<<30, 4*mib); err != nil {
		t.Fatal(err)
	}
	first := record()
	if _, err := r.Store(ctx, Source{Dev: dev}, first, nil, StoreOptions{}); err != nil {
		t.Fatal(err)
	}
	if first.Stats.Written > 6*mib || first.Stats.Changed != 4*mib {
		t.Errorf("a TiB with 4 MiB of data: %+v", first.Stats)
	}
	second := record()
	if _, err := r.Store(ctx, Source{Dev: dev}, second, nil, StoreOptions{}); err != nil {
		t.Fatal(err)
	}
	if second.Stats.Written > 100<<10 {
		t.Errorf("the same again: %+v", second.Stats)
	}
}

// The changed bytes are stored once over, and little else: at 1 % changed in
// clusters of 64 KiB, at most twice.
func TestStoredPerChange(t *testing.T) {
	r, _ := inMemory(t)
	const size, cluster = 64 * mib, 64 << 10
	dev := mem.New(size)
	for off := int64(0); off < size; off += mib {
		write(t, dev, nil, Layout{}, off, noise(byte(off>>20), mib))
	}
	b := stored(t, r, Source{Dev: dev})
	base, _, err := r.Image(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	l := base.Layout()
	changed := NewSet(l.Segments())
	rng := rand.New(rand.NewPCG(1, 2))
	const n = size / 100 / cluster
	for i := range n {
		write(t, dev, changed, l, rng.Int64N(size/cluster)*cluster, noise(byte(255-i), cluster))
	}
	rec := record()
	if _, err := r.Store(ctx, Source{Dev: dev, Base: base, Changed: changed}, rec, nil, StoreOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes changed, %+v: %.2f stored for each", n*cluster, rec.Stats, float64(rec.Stats.Written)/(n*cluster))
	if rec.Stats.Written > 2*n*cluster {
		t.Errorf("%d bytes changed, %d were stored", n*cluster, rec.Stats.Written)
	}
}

// A store that fails at any operation: an error that says what the store
// said, and no backup on the list that is not whole.
func TestStoreFails(t *testing.T) {
	r, s := inMemory(t)
	dev := volume(t, 3*mib)
	stored(t, r, Source{Dev: dev})
	r.Close(ctx)
	clean := s.after(len(s.log))
	write(t, dev, nil, Layout{}, mib, noise(9, 200<<10))
	stride := int64(1)
	if !blocktest.Long() {
		stride = 3
	}
	for n := int64(1); ; n += stride {
		s := clean.copy()
		var count atomic.Int64
		r := openStore(t, s)
		s.before = func(op string, id blob.ID, data []byte) ([]byte, error) {
			if count.Add(1) == n {
				return nil, syscall.ENOSPC
			}
			return data, nil
		}
		_, err := r.Store(ctx, Source{Dev: dev}, record(), nil, StoreOptions{})
		s.before = nil
		fired := count.Load() >= n
		r.Close(ctx)
		if !fired {
			if err != nil {
				t.Fatalf("without a fault: %v", err)
			}
			if n < 8 {
				t.Fatalf("only %d operations: too few to have tested anything", n-1)
			}
			t.Logf("%d faults", n-1)
			return
		}
		if err != nil && !errs.Is(err, errs.NoSpace) {
			t.Errorf("fault %d: error is %v", n, err)
		}
		again := openStore(t, s)
		list, listErr := again.List(ctx)
		if listErr != nil || len(list) > 2 || err == nil && len(list) != 2 {
			t.Errorf("fault %d: %d backups, %v, after %v", n, len(list), listErr, err)
		}
		if v, err := again.Verify(ctx, VerifyOptions{}); err != nil {
			t.Errorf("fault %d: %v %+v", n, err, v)
		}
	}
}

func (s *memStore) copy() *memStore {
	c := newMemStore()
	for id, b := range s.blobs {
		c.blobs[id] = b
	}
	return c
}

// The power fails, or somebody kills the program, between any two changes of
// the store. Whatever is listed afterwards is whole.
func TestCrash(t *testing.T) {
	r, s := inMemory(t)
	dev := volume(t, 3*mib)
	before := len(s.log)
	stride := 1
	if !blocktest.Long() {
		stride = 3
	}
	stored(t, r, Source{Dev: dev})
	first := len(s.log)
	write(t, dev, nil, Layout{}, mib, noise(9, 200<<10))
	stored(t, r, Source{Dev: dev})
	listed := 0
	for n := before; n <= len(s.log); n += min(stride, max(1, len(s.log)-n)) {
		again := openStore(t, s.after(n))
		list, err := again.List(ctx)
		if err != nil {
			t.Fatalf("after %d of %d changes: %v", n, len(s.log), err)
		}
		if len(list) < listed || n == first && len(list) != 1 || n == len(s.log) && len(list) != 2 {
			t.Errorf("after %d of %d changes (%d of the first backup) there are %d backups", n, len(s.log), first-before, len(list))
		}
		listed = len(list)
		if v, err := again.Verify(ctx, VerifyOptions{}); err != nil {
			t.Errorf("after %d changes: %v %+v", n, err, v)
		}
		for _, b := range list {
			if _, err := again.VerifyBackup(ctx, b, VerifyOptions{}); err != nil {
				t.Errorf("after %d changes: %v", n, err)
			}
		}
		again.Close(ctx)
	}
	t.Logf("%d crashes", len(s.log)-before+1)
}

// A store that does not keep what it was given must not get a backup.
func TestLyingStore(t *testing.T) {
	r, s := inMemory(t)
	var lied bool
	s.before = func(op string, id blob.ID, data []byte) ([]byte, error) {
		if op == "put" && strings.HasPrefix(string(id), "p") {
			data = slices.Clone(data)
			data[len(data)/2] ^= 4
			lied = true
		}
		return data, nil
	}
	_, err := r.Store(ctx, Source{Dev: volume(t, mib)}, record(), nil, StoreOptions{})
	if !lied || !errs.Is(err, errs.Corrupt) || errs.HintOf(err) == "" {
		t.Errorf("error is %v (hint %q)", err, errs.HintOf(err))
	}
	s.before = nil
	if list, err := openStore(t, s).List(ctx); err != nil || len(list) > 0 {
		t.Errorf("%d backups, %v", len(list), err)
	}
}

// A device that cannot be read.
func TestSourceFails(t *testing.T) {
	r, _ := inMemory(t)
	for n := int64(1); n <= 3; n++ {
		dev := &failing{Device: volume(t, 3*mib)}
		dev.left.Store(n)
		_, err := r.Store(ctx, Source{Dev: dev}, record(), nil, StoreOptions{})
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("read %d: error is %v", n, err)
		}
	}
	if list, err := r.List(ctx); err != nil || len(list) > 0 {
		t.Errorf("%d backups, %v", len(list), err)
	}
}

type failing struct {
	block.Device
	left atomic.Int64
}

func (f *failing) ReadAt(b []byte, off int64) (int, error) {
	if f.left.Add(-1) == 0 {
		return 0, syscall.EIO
	}
	return f.Device.ReadAt(b, off)
}

// Ctrl-C: no backup, and the next one need not store again what was stored.
func TestInterrupted(t *testing.T) {
	r, s := inMemory(t)
	dev := mem.New(64 * mib)
	for off := int64(0); off < 64*mib; off += mib {
		write(t, dev, nil, Layout{}, off, noise(byte(off>>20), mib))
	}
	interrupt := errors.New("interrupt")
	c, cancel := context.WithCancelCause(ctx)
	var seen int64
	_, err := r.Store(c, Source{Dev: dev}, record(), nil, StoreOptions{Progress: func(done, total int64) {
		if seen = done; done > total*3/4 {
			cancel(interrupt)
		}
	}})
	if !errors.Is(err, interrupt) {
		t.Fatalf("error is %v", err)
	}
	r.Close(ctx)
	r = openStore(t, s)
	if list, err := r.List(ctx); err != nil || len(list) > 0 {
		t.Errorf("%d backups, %v", len(list), err)
	}
	rec := record()
	b, err := r.Store(ctx, Source{Dev: dev}, rec, nil, StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if rec.Stats.Written > 24*mib {
		t.Errorf("%d of %d bytes were stored, and then %d again", seen, dev.Size(), rec.Stats.Written)
	}
	compare(t, r, b, dev)
}

// What keeps the files beside the image.
func TestFiles(t *testing.T) {
	r, _ := inMemory(t)
	b := stored(t, r, Source{Dev: volume(t, mib)}, File{"vg.conf", []byte("vg {}\n")})
	got, err := r.ReadFile(ctx, b, "vg.conf")
	if err != nil || !bytes.Equal(got, []byte("vg {}\n")) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := r.ReadFile(ctx, b, "nosuch"); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
}

func TestFind(t *testing.T) {
	all := []*Backup{{ID: "aaaa1", VG: "vg", LV: "a"}, {ID: "aaab2", VG: "vg", LV: "b"}, {ID: "aaab3", VG: "vg", LV: "a"}}
	for name, want := range map[string]string{"latest": "", "vg/b": "aaab2", "vg/a": "aaab3", "aaaa": "aaaa1", "aaab2": "aaab2",
		"aaab": "", "aaa": "", "vg/c": "", "": ""} {
		b, err := find(all, name)
		if (b == nil) != (want == "") || (err == nil) != (want != "") || b != nil && b.ID != want {
			t.Errorf("%q: %+v, %v", name, b, err)
		}
	}
	if b, err := find([]*Backup{all[0], all[2]}, "latest"); err != nil || b != all[2] {
		t.Errorf("latest of one volume: %+v, %v", b, err)
	}
}

// Without the password nothing can be read; without a repository nothing is
// opened, and a second one is not made over the first.
func TestOpen(t *testing.T) {
	s := newMemStore()
	if _, err := Open(ctx, Store{Storage: s}, password, Options{}); !errs.Is(err, errs.NotFound) {
		t.Errorf("none: %v", err)
	}
	if err := Init(ctx, Store{Storage: s}, "", Options{}); !errs.Is(err, errs.Usage) {
		t.Errorf("no password: %v", err)
	}
	if err := Init(ctx, Store{Storage: s}, password, quick); err != nil {
		t.Fatal(err)
	}
	if err := Init(ctx, Store{Storage: s}, password, quick); !errs.Is(err, errs.Exists) {
		t.Errorf("twice: %v", err)
	}
	if _, err := Open(ctx, Store{Storage: s}, password+"x", Options{}); !errs.Is(err, errs.Denied) {
		t.Errorf("wrong password: %v", err)
	}
}
