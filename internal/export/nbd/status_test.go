package nbd

import (
	"iter"
	"slices"
	"testing"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/export"
)

// descriptors reads an answer to BLOCK_STATUS, by context.
func (p *peer) descriptors() map[uint32][]descriptor {
	p.t.Helper()
	got := map[uint32][]descriptor{}
	for {
		a := p.answer()
		if a.kind != chunkBlockStatus {
			p.t.Fatalf("chunk %+v", a)
		}
		id := be.Uint32(a.data)
		for b := a.data[4:]; len(b) > 0; b = b[descriptorSize:] {
			got[id] = append(got[id], descriptor{be.Uint32(b), be.Uint32(b[4:])})
		}
		if a.flags&replyFlagDone != 0 {
			return got
		}
	}
}

// layered is a device as a snapshot is one: some of it its own, some below.
func layered(size int64, extents ...block.Extent) *hooked {
	return &hooked{Device: mem.New(size), extents: func(off, length int64) iter.Seq2[block.Extent, error] {
		return func(yield func(block.Extent, error) bool) {
			for _, e := range extents {
				end := min(e.End(), off+length)
				e.Off = max(e.Off, off)
				if e.Len = end - e.Off; e.Len > 0 && !yield(e, nil) {
					return
				}
			}
		}
	}}
}

func TestBlockStatus(t *testing.T) {
	dev := layered(100,
		block.Extent{Off: 0, Len: 10, Kind: block.Data},
		block.Extent{Off: 10, Len: 10, Kind: block.Data, Depth: 1},
		block.Extent{Off: 20, Len: 10, Kind: block.Zero},
		block.Extent{Off: 30, Len: 10, Kind: block.Hole},
		block.Extent{Off: 40, Len: 10, Kind: block.Hole, Depth: 2},
		block.Extent{Off: 50, Len: 50, Kind: block.Zero, Depth: 2})
	kinds := []descriptor{{20, 0}, {10, 2}, {20, 3}, {50, 2}}
	depths := []descriptor{{10, 1}, {10, 2}, {10, 1}, {20, 0}, {50, 3}}
	equal := func(t *testing.T, got, want []descriptor) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}

	p := serveVol(t, dev, true, contextAllocation, contextDepth)
	p.ask(request{cmd: cmdBlockStatus, length: 100})
	got := p.descriptors()
	equal(t, got[idAllocation], kinds)
	equal(t, got[idDepth], depths)

	p.ask(request{cmd: cmdBlockStatus, flags: cmdFlagReqOne, off: 5, length: 95})
	got = p.descriptors()
	equal(t, got[idAllocation], []descriptor{{15, 0}})
	equal(t, got[idDepth], []descriptor{{5, 1}})

	p = serveVol(t, dev, true, contextDepth)
	p.ask(request{cmd: cmdBlockStatus, off: 25, length: 30})
	got = p.descriptors()
	equal(t, got[idDepth], []descriptor{{5, 1}, {20, 0}, {5, 3}})
	if len(got) != 1 {
		t.Errorf("contexts that were not selected: %v", got)
	}
}

// A device in a million pieces is described in answers of bounded size, each of
// which goes on where the last one ended.
func TestBlockStatusOfManyExtents(t *testing.T) {
	const pieces = 3*maxDescriptors + 17
	var extents []block.Extent
	for i := range int64(pieces) {
		extents = append(extents, block.Extent{Off: i * 4096, Len: 4096, Kind: block.ExtentKind(i % 2 * 2), Depth: int(i % 3)})
	}
	p := serveVol(t, layered(pieces*4096, extents...), true, contextDepth, contextAllocation)
	at, answers := uint64(0), 0
	for ; at < pieces*4096; answers++ {
		p.ask(request{cmd: cmdBlockStatus, off: at, length: uint32(pieces*4096 - at)})
		got := p.descriptors()[idAllocation]
		if len(got) > maxDescriptors {
			t.Fatalf("%d descriptors in one answer", len(got))
		}
		for _, d := range got {
			if want := uint32(at / 4096 % 2 * 3); d.length != 4096 || d.state != want {
				t.Fatalf("at %d: %+v, want state %d", at, d, want)
			}
			at += uint64(d.length)
		}
	}
	if answers != 4 {
		t.Errorf("%d answers, want 4", answers)
	}
}

// every marks every second piece of a range.
func every(piece int64, before func()) func(off, length int64) iter.Seq2[export.Run, error] {
	return func(off, length int64) iter.Seq2[export.Run, error] {
		return func(yield func(export.Run, error) bool) {
			for end := off + length; off < end; {
				before()
				n := min((off/piece+1)*piece, end) - off
				if !yield(export.Run{Off: off, Len: n, Marked: off/piece%2 == 1}, nil) {
					return
				}
				off += n
			}
		}
	}
}

// Bitmaps are contexts of their own, of the exports that have them.
func TestBitmaps(t *testing.T) {
	shelf := twoExports()
	shelf.bitmaps = []export.Bitmap{{Name: "a", Runs: every(10, func() {})}, {Name: "b", Runs: every(1000, func() {})}}
	p := newPeer(t, NewServer(shelf, nil))
	p.option(optStructuredReply, nil)
	for query, want := range map[string]string{
		"qemu:dirty-bitmap:":  "context 0 qemu:dirty-bitmap:a, context 0 qemu:dirty-bitmap:b, ack",
		"qemu:dirty-bitmap:b": "context 0 qemu:dirty-bitmap:b, ack",
		"qemu:dirty-bitmap:c": "ack",
		"qemu:":               "context 0 qemu:allocation-depth, context 0 qemu:dirty-bitmap:a, context 0 qemu:dirty-bitmap:b, ack",
	} {
		if got := text(p.option(optListMeta, metaData("vol", query))); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	p.start(true, contextAllocation, "qemu:dirty-bitmap:b", "qemu:dirty-bitmap:a")
	p.ask(request{cmd: cmdBlockStatus, off: 5, length: 20})
	got := p.descriptors()
	if len(got) != 3 || !slices.Equal(got[idBitmap], []descriptor{{5, 0}, {10, 1}, {5, 0}}) || !slices.Equal(got[idBitmap+1], []descriptor{{20, 0}}) {
		t.Errorf("block status %v", got)
	}
	p.ask(request{cmd: cmdBlockStatus, off: 5, length: 20, flags: cmdFlagReqOne})
	if got := p.descriptors(); !slices.Equal(got[idBitmap], []descriptor{{5, 0}}) {
		t.Errorf("the first only: %v", got)
	}
}

// What is found out only by reading is told bit by bit: no client waits until
// all of it is known, and each gets to the end.
func TestStatusThatTakesTime(t *testing.T) {
	shelf := newShelf().with("vol", mem.New(40))
	shelf.bitmaps = []export.Bitmap{{Name: "slow", Runs: every(10, func() { time.Sleep(statusPatience + time.Millisecond) })}}
	p := newPeer(t, NewServer(shelf, nil))
	p.start(true, "qemu:dirty-bitmap:slow")
	for off := uint64(0); off < 40; off += 10 {
		p.ask(request{cmd: cmdBlockStatus, off: off, length: uint32(40 - off)})
		if got := p.descriptors()[idBitmap]; !slices.Equal(got, []descriptor{{10, uint32(off / 10 % 2)}}) {
			t.Errorf("at %d: %v", off, got)
		}
	}
}
