package snap

import (
	"iter"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/format/dmsnap"
)

// null is a device of any size that forgets what is written and reads as
// anything: what is left is the engine's own time.
type null struct{ size int64 }

func (d null) ReadAt(p []byte, _ int64) (int, error)  { return len(p), nil }
func (d null) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (d null) Flush() error                           { return nil }
func (d null) Discard(int64, int64) error             { return nil }
func (d null) WriteZeroes(int64, int64) error         { return nil }
func (d null) Extents(off, n int64) iter.Seq2[block.Extent, error] {
	return block.OneExtent(block.Extent{Off: off, Len: n, Kind: block.Data})
}
func (d null) Size() int64      { return d.size }
func (d null) Caps() block.Caps { return block.Caps{BlockSize: block.SectorSize} }
func (d null) Close() error     { return nil }

const (
	terabyte     = int64(1) << 40
	benchChunk   = int64(4096)
	benchEntries = 1_000_000
)

// scatter is a permutation of the chunks of 16 TiB: a different one for each
// i, all over the place.
func scatter(i uint64) uint64 { return i * 2654435761 % (1 << 32) }

// excepted returns an origin of 16 TiB with a snapshot that has n exceptions,
// without an I/O.
func excepted(b testing.TB, n uint64, old func(i uint64) uint64) (*Origin, *Snapshot) {
	b.Helper()
	o := NewOrigin(null{16 * terabyte}, OriginOptions{})
	s := &Store{dev: null{terabyte}, layout: dmsnap.Layout{ChunkBytes: benchChunk}, area: make([]byte, benchChunk), next: dmsnap.FirstData}
	s.chunks = s.layout.Chunks(s.dev.Size())
	for i := range n {
		s.index.insert(dmsnap.Exception{Old: old(i), New: s.next})
		s.next = s.layout.SkipMetadata(s.next + 1)
	}
	return o, attach(b, o, s)
}

func sequential(i uint64) uint64 { return i }

// Every origin write and every snapshot read looks into the index.
func BenchmarkRequests(b *testing.B) {
	for _, shape := range []struct {
		name string
		old  func(uint64) uint64
	}{{"scattered", scatter}, {"sequential", sequential}} {
		o, n := excepted(b, benchEntries, shape.old)
		p := make([]byte, benchChunk)
		large := make([]byte, 1<<20)
		for name, f := range map[string]func(rng *rand.Rand) error{
			"origin-rewrite": func(rng *rand.Rand) error {
				_, err := o.WriteAt(p, int64(shape.old(rng.Uint64N(benchEntries)))*benchChunk)
				return err
			},
			"origin-read": func(rng *rand.Rand) error {
				_, err := o.ReadAt(p, int64(shape.old(rng.Uint64N(benchEntries)))*benchChunk)
				return err
			},
			"snapshot-read-cow": func(rng *rand.Rand) error {
				_, err := n.ReadAt(p, int64(shape.old(rng.Uint64N(benchEntries)))*benchChunk)
				return err
			},
			"snapshot-read-origin": func(rng *rand.Rand) error {
				_, err := n.ReadAt(p, (8*terabyte+rng.Int64N(terabyte))/benchChunk*benchChunk)
				return err
			},
			"snapshot-read-1M": func(rng *rand.Rand) error {
				_, err := n.ReadAt(large, int64(shape.old(rng.Uint64N(benchEntries)))*benchChunk>>20<<20)
				return err
			},
		} {
			b.Run(shape.name+"/"+name, func(b *testing.B) {
				rng := rand.New(rand.NewPCG(1, 2))
				b.ReportAllocs()
				for b.Loop() {
					if err := f(rng); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// A store of 10 million exceptions must not keep a group from being activated.
// The file is read through the page cache.
func BenchmarkOpen(b *testing.B) {
	for name, old := range map[string]func(uint64) uint64{"scattered": scatter, "sequential": sequential} {
		b.Run(name, func(b *testing.B) {
			const entries = 10_000_000
			cow := bigStore(b, entries, old)
			for b.Loop() {
				s, err := Open(cow, Options{})
				if err != nil || s.Count() != entries {
					b.Fatal(s.Count(), err)
				}
			}
		})
	}
}

// bigStore makes a sparse file with a store of n exceptions, whose chunks are
// holes.
func bigStore(b *testing.B, n uint64, old func(uint64) uint64) *file.Device {
	b.Helper()
	l := dmsnap.Layout{ChunkBytes: benchChunk}
	per := uint64(l.PerArea())
	areas := n/per + 1
	cow, err := file.Create(filepath.Join(b.TempDir(), "cow"), l.Off(areas*(per+1)+2))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { cow.Close() })
	write := func(p []byte, off int64) {
		if _, err := cow.WriteAt(p, off); err != nil {
			b.Fatal(err)
		}
	}
	write(dmsnap.Header{Valid: true, ChunkBytes: benchChunk}.Encode(), 0)
	for k, i := uint64(0), uint64(0); i < n; k++ {
		area := make([]byte, benchChunk)
		for j := uint64(0); j < per && i < n; j++ {
			dmsnap.PutEntry(area, int(j), dmsnap.Exception{Old: old(i), New: l.AreaChunk(k) + 1 + j})
			i++
		}
		write(area, l.Off(l.AreaChunk(k)))
	}
	return cow
}
