package snap

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/format/dmsnap"
)

// giant is an origin and a snapshot far larger than memory, beside the chunks
// that were written to them; all others are zero.
type giant struct {
	t         *testing.T
	rng       *rand.Rand
	chunk     int64
	disk, cow *mem.Device
	origin    *Origin
	snap      *Snapshot
	now, then map[int64]byte // what fills a chunk of the origin, and of the snapshot
}

// open attaches the store, as after a restart.
func (g *giant) open() {
	g.t.Helper()
	g.origin = NewOrigin(g.disk, OriginOptions{})
	g.snap = attach(g.t, g.origin, openStore(g.t, g.cow, g.chunk))
}

// place returns a random chunk: anywhere, at either end, or about a power of 2.
func (g *giant) place() int64 {
	last := (g.disk.Size() - 1) / g.chunk
	switch g.rng.IntN(4) {
	case 0:
		return min(last, g.rng.Int64N(40))
	case 1:
		return max(0, last-g.rng.Int64N(40))
	case 2:
		return max(0, min(last, 1<<g.rng.IntN(52)-20+g.rng.Int64N(40)))
	}
	return g.rng.Int64N(last + 1)
}

// write fills up to three chunks of a device n times.
func (g *giant) write(n int, d block.Device, content map[int64]byte) {
	g.t.Helper()
	for range n {
		off, fill := g.place()*g.chunk, byte(1+g.rng.IntN(255))
		length := min(g.chunk*(1+g.rng.Int64N(3)), d.Size()-off)
		if _, err := d.WriteAt(bytes.Repeat([]byte{fill}, int(length)), off); err != nil {
			g.t.Fatal(err)
		}
		for at := off; at < off+length; at += g.chunk {
			content[at/g.chunk] = fill
		}
	}
}

// check compares what was written, and as many other places.
func (g *giant) check(what string, d block.Device, content map[int64]byte) {
	g.t.Helper()
	for written := range maps.Keys(content) {
		for _, c := range []int64{written, g.place()} {
			p := make([]byte, min(g.chunk, d.Size()-c*g.chunk))
			if _, err := d.ReadAt(p, c*g.chunk); err != nil {
				g.t.Fatal(err)
			}
			if !bytes.Equal(p, bytes.Repeat([]byte{content[c]}, len(p))) {
				g.t.Fatalf("%s: chunk %d begins with %d, want %d", what, c, p[0], content[c])
			}
		}
	}
}

// Numbers that do not fit 32 bits, and products that do not fit 64, turn up
// where volumes are large. Nothing may cost what the volume's size is.
func TestGiantVolumes(t *testing.T) {
	for _, c := range []struct{ size, cow, chunk int64 }{
		{16 * terabyte, terabyte, 4096},
		{16*terabyte + 1536, terabyte, 512},
		{maxOrigin, 1 << 44, 64 << 10},
		{maxOrigin - 512, 1<<63 - 512, 4096},
	} {
		t.Run(fmt.Sprintf("%d TiB, chunks of %d", c.size/terabyte, c.chunk), func(t *testing.T) {
			g := &giant{t: t, rng: rand.New(rand.NewPCG(blocktest.Seed(t), 0)), chunk: c.chunk,
				disk: mem.New(c.size), cow: mem.New(c.cow), now: map[int64]byte{}}
			g.origin = NewOrigin(g.disk, OriginOptions{})
			g.write(50, g.origin, g.now)
			if err := g.origin.Close(); err != nil {
				t.Fatal(err)
			}
			g.then = maps.Clone(g.now)
			g.open()
			for range 3 {
				g.write(100, g.origin, g.now)
				g.write(40, g.snap, g.then)
				g.check("origin", g.origin, g.now)
				g.check("snapshot", g.snap, g.then)
				if err := g.origin.Close(); err != nil {
					t.Fatal(err)
				}
				g.open()
				g.check("origin after a restart", g.origin, g.now)
				g.check("snapshot after a restart", g.snap, g.then)
			}
			g.checkExtents()
			g.merge()
		})
	}
}

// checkExtents looks for what was written in the extents of everything.
func (g *giant) checkExtents() {
	g.t.Helper()
	var data, end int64
	for e, err := range g.snap.Extents(0, g.snap.Size()) {
		if err != nil || e.Off != end {
			g.t.Fatalf("extent at %d, want %d: %v", e.Off, end, err)
		}
		if end = e.End(); e.Kind == block.Data {
			data += e.Len
		}
	}
	least := int64(len(g.then)-3) * g.chunk
	if most := int64(len(g.now)+len(g.then)) * max(g.chunk, 4096); end != g.snap.Size() || data < least || data > most {
		g.t.Fatalf("%d bytes of data to %d, want %d to %d", data, end, least, most)
	}
}

func (g *giant) merge() {
	g.t.Helper()
	if err := g.origin.StartMerge(g.snap.Store(), g.snap.Size()); err != nil {
		g.t.Fatal(err)
	}
	g.check("merging origin", g.origin, g.then)
	for left, err := 1, error(nil); left > 0; {
		if left, err = g.origin.MergeStep(); err != nil {
			g.t.Fatal(err)
		}
	}
	g.check("merged origin", g.origin, g.then)
}

// used returns a COW device whose store has one exception, in the last data
// chunk below end, so that the next free one is behind it.
func used(t *testing.T, size int64, end uint64) (*mem.Device, dmsnap.Exception) {
	t.Helper()
	cow := mem.New(size)
	if err := Format(cow, 4096); err != nil {
		t.Fatal(err)
	}
	l := dmsnap.Layout{ChunkBytes: 4096}
	e := dmsnap.Exception{Old: 1 << 40, New: end - 1}
	for !l.IsData(e.New) {
		e.New--
	}
	area := make([]byte, 4096)
	dmsnap.PutEntry(area, 0, e)
	if _, err := cow.WriteAt(area, 4096); err != nil {
		t.Fatal(err)
	}
	return cow, e
}

// A store is full where its device ends, or where its index does.
func TestOverflowOfGiantStores(t *testing.T) {
	const limit = uint64(maxChunks)
	for _, c := range []struct {
		name string
		size int64
		end  uint64 // where the exception is
		room int    // chunks behind it
	}{
		{"1 TiB", terabyte, uint64(terabyte/4096) - 5, 5},
		{"2^32 chunks", int64(limit) * 4096, limit - 7, 7},
		{"more than 2^32 chunks", int64(limit)*4096 + 100*4096, limit - 3, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			cow, e := used(t, c.size, c.end)
			o := NewOrigin(mem.New(1<<53), OriginOptions{})
			n := attach(t, o, openStore(t, cow, 4096))
			c.room = int(c.end) + c.room - int(e.New) - 1
			for i := range int64(c.room) {
				if _, err := o.WriteAt([]byte{1}, (5+3*i)*4096); err != nil {
					t.Fatal(err)
				}
			}
			o.Settle()
			if u := n.Store().Usage(); u.Invalid || n.Store().Count() != c.room+1 {
				t.Fatalf("with %d of %d chunks taken: %+v", n.Store().Count()-1, c.room, u)
			}
			p := make([]byte, 2)
			if _, err := n.ReadAt(p, 1<<52); err != nil {
				t.Fatal(err)
			}
			if _, err := o.WriteAt([]byte{1}, 1<<50); err != nil {
				t.Fatal(err)
			}
			o.Settle()
			if !n.Store().Usage().Invalid {
				t.Error("one chunk more is not one too many")
			}
		})
	}
}

// The kernel's chunks behind 2^32 cannot be mistaken for others.
func TestOpenRefusesChunksBehindTheIndex(t *testing.T) {
	cow, _ := used(t, int64(maxChunks)*4096+100*4096, maxChunks+50)
	if _, err := Open(cow, Options{}); !errs.Is(err, errs.Unsupported) {
		t.Errorf("%v", err)
	}
	cow, _ = used(t, int64(maxChunks)*4096, maxChunks+50)
	if _, err := Open(cow, Options{}); !errs.Is(err, errs.Corrupt) {
		t.Errorf("behind the device: %v", err)
	}
}
