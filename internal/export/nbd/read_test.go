package nbd

import (
	"bytes"
	"testing"

	"cowl/internal/block/mem"
)

// Clients that are told of zeroes must see the bytes that are there, in chunks
// that cover what was asked for once.
func TestSparseReads(t *testing.T) {
	const size = 2 << 20
	dev := mem.New(size)
	want := make([]byte, size)
	put := func(off int, text string) {
		copy(want[off:], text)
		dev.WriteAt([]byte(text), int64(off))
	}
	put(0, "start")
	put(100<<10, "middle")
	for i := range 40 { // more runs than a reply has chunks
		put(300<<10+i*(32<<10), "x")
	}
	tests := []struct {
		name          string
		off, length   int
		flags         uint16
		chunks, holes int
	}{
		{"small", 0, 4096, 0, 1, 0},
		{"small zeroes", 64 << 10, 4096, 0, 1, 0},
		{"zeroes", 16 << 10, 80 << 10, 0, 1, 1},
		{"zeroes, odd", 8193, 80<<10 + 1, 0, 1, 1},
		{"data and zeroes", 0, 200 << 10, 0, 4, 2},
		{"not fragmented", 0, 200 << 10, cmdFlagDF, 1, 0},
		{"odd", 3, 200<<10 + 1, 0, 4, 2},
		{"zeroes that are too few", 100 << 10, 64<<10 - 1, 0, 1, 0},
		{"data at the end", 60 << 10, 40<<10 + 1, 0, 1, 0},
		{"data behind the last unit", 16 << 10, 84<<10 + 1, 0, 2, 1},
		{"zeroes behind the last unit", 100 << 10, 16<<10 + 64<<10 - 1, 0, 2, 1},
		{"too many runs", 0, size, 0, maxChunks, 11},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := serveVol(t, dev, true)
			p.ask(request{cmd: cmdRead, flags: tt.flags, off: uint64(tt.off), length: uint32(tt.length)})
			got := bytes.Repeat([]byte{'?'}, tt.length)
			chunks, holes := 0, 0
			for done := false; !done; chunks++ {
				a := p.answer()
				done = a.flags&replyFlagDone != 0
				at := int(be.Uint64(a.data)) - tt.off
				switch a.kind {
				case chunkData:
					copy(got[at:], a.data[8:])
				case chunkHole:
					holes++
					clear(got[at:][:be.Uint32(a.data[8:])])
				default:
					t.Fatalf("chunk %+v", a)
				}
			}
			if !bytes.Equal(got, want[tt.off:][:tt.length]) {
				t.Error("content differs")
			}
			if chunks != tt.chunks || holes != tt.holes {
				t.Errorf("%d chunks, %d holes, want %d and %d", chunks, holes, tt.chunks, tt.holes)
			}
		})
	}
}
