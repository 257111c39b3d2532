package dmsnap

import (
	"bytes"
	"testing"

	"cowl/internal/errs"
)

// A store whose arithmetic is off by one overwrites metadata with data. The
// numbers are the kernel's for 4 KiB chunks: areas at 1, 258, 515.
func TestLayoutIsTheKernels(t *testing.T) {
	l := Layout{ChunkBytes: 4096}
	if l.PerArea() != 256 {
		t.Fatalf("per area: %d", l.PerArea())
	}
	for k, want := range []uint64{1, 258, 515} {
		if got := l.AreaChunk(uint64(k)); got != want {
			t.Errorf("area %d at chunk %d, want %d", k, got, want)
		}
		if l.IsData(want) || l.SkipMetadata(want) != want+1 {
			t.Errorf("chunk %d is taken for data", want)
		}
	}
	for _, c := range []uint64{2, 257, 259, 514} {
		if !l.IsData(c) || l.SkipMetadata(c) != c {
			t.Errorf("chunk %d is not taken for data", c)
		}
	}
	if l.IsData(0) {
		t.Error("the header is taken for data")
	}
}

func TestHeaderRefusesWhatItCannotBe(t *testing.T) {
	good := Header{Valid: true, ChunkBytes: 4096}.Encode()
	for name, change := range map[string]func(b []byte){
		"magic":           func(b []byte) { b[0]++ },
		"version":         func(b []byte) { b[8] = 2 },
		"chunk of zero":   func(b []byte) { b[12] = 0 },
		"chunk of three":  func(b []byte) { b[12] = 3 },
		"chunk of 2 TiB":  func(b []byte) { b[15] = 0x80 },
		"chunk of 32 MiB": func(b []byte) { b[12], b[14] = 0, 1 },
	} {
		b := bytes.Clone(good)
		change(b)
		if _, _, err := DecodeHeader(b); !errs.Is(err, errs.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := DecodeHeader(good[:100]); !errs.Is(err, errs.Corrupt) {
		t.Errorf("short: %v", err)
	}
	if _, isNew, err := DecodeHeader(make([]byte, HeaderSize)); !isNew || err != nil {
		t.Errorf("zeroes: %v %v", isNew, err)
	}
}

func FuzzHeader(f *testing.F) {
	f.Add(Header{Valid: true, ChunkBytes: 4096}.Encode())
	f.Add(Header{ChunkBytes: 512 << 10}.Encode())
	f.Add(make([]byte, HeaderSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, isNew, err := DecodeHeader(b)
		if err != nil || isNew {
			return
		}
		again, _, err := DecodeHeader(h.Encode())
		if err != nil || again != h {
			t.Fatalf("%+v became %+v, %v", h, again, err)
		}
		// Canonical input comes back byte for byte.
		if canonical := append(bytes.Clone(b[:16]), make([]byte, HeaderSize-16)...); b[4] <= 1 && b[5]|b[6]|b[7] == 0 && !bytes.Equal(h.Encode(), canonical) {
			t.Fatalf("encoded differently:\n%x\n%x", h.Encode()[:16], canonical[:16])
		}
	})
}

func FuzzArea(f *testing.F) {
	area := make([]byte, 512)
	PutEntry(area, 0, Exception{Old: 7, New: 2})
	PutEntry(area, 1, Exception{Old: 1 << 60, New: 3})
	f.Add(area)
	f.Fuzz(func(t *testing.T, b []byte) {
		again := make([]byte, len(b)/EntrySize*EntrySize)
		n := Used(b)
		for i := range n {
			e := Entry(b, i)
			if e.New == 0 {
				t.Fatalf("entry %d of %d is a terminator", i, n)
			}
			PutEntry(again, i, e)
		}
		if !bytes.Equal(again[:n*EntrySize], b[:n*EntrySize]) {
			t.Fatal("entries did not come back")
		}
	})
}

func TestDataIndex(t *testing.T) {
	for _, chunk := range []int64{512, 4096} {
		l := Layout{ChunkBytes: chunk}
		var index uint64
		for c := range uint64(1000) {
			if got := l.DataIndex(c); got != index {
				t.Fatalf("chunks of %d: %d data chunks before chunk %d, want %d", chunk, got, c, index)
			}
			if l.IsData(c) {
				if got := l.DataChunk(index); got != c {
					t.Fatalf("chunks of %d: data chunk %d is chunk %d, want %d", chunk, index, got, c)
				}
				index++
			}
		}
	}
}
