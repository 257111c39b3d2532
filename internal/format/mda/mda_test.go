package mda

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"cowl/internal/errs"
	"cowl/internal/format/checksum"
)

// golden is a header as lvm2 2.03.16 wrote it.
func golden() []byte {
	b := append([]byte("\x17\x97\xb5\x23"), magic...)
	b = append(b, "\x01\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\xf0\x0f\x00\x00\x00\x00\x00"...)
	b = append(b, "\x00\x06\x00\x00\x00\x00\x00\x00\xa6\x04\x00\x00\x00\x00\x00\x00\xcc\x07\xcb\x20\x00\x00\x00\x00"...)
	return append(b, make([]byte, HeaderSize-len(b))...)
}

func TestGolden(t *testing.T) {
	want := &Header{Start: 4096, Size: 1044480, Slots: [2]Locn{{Offset: 1536, Length: 1190, Checksum: 0x20cb07cc}, {}}}
	h, err := Decode(golden(), 4096)
	if err != nil || !reflect.DeepEqual(h, want) {
		t.Fatalf("got %+v, %v, want %+v", h, err, want)
	}
	if got := h.Encode(); !bytes.Equal(got, golden()) {
		t.Fatalf("encoded as\n%x", got)
	}
}

func TestIgnored(t *testing.T) {
	l := Locn{Offset: 512, Length: 7, Checksum: 9, Flags: 6}
	on := l.WithIgnored(true)
	if l.Ignored() || !on.Ignored() || on.Flags != 7 || on.WithIgnored(false) != l {
		t.Errorf("%+v became %+v", l, on)
	}
	if !(Locn{}.WithIgnored(true).None()) || l.None() {
		t.Error("None depends on flags")
	}
}

func sealed(b []byte) []byte {
	binary.LittleEndian.PutUint32(b, checksum.LVM(b[offSummed:]))
	return b
}

func TestRefused(t *testing.T) {
	put := func(off int, v uint64) func(b []byte) {
		return func(b []byte) { binary.LittleEndian.PutUint64(b[off:], v) }
	}
	for _, c := range []struct {
		name string
		harm func(b []byte)
		kind errs.Kind
		want string
	}{
		{"another magic", func(b []byte) { b[offMagic]++ }, errs.Corrupt, "magic"},
		{"another version", func(b []byte) { b[offVersion] = 2 }, errs.Unsupported, "version 2"},
		{"another place", put(offStart, 8192), errs.Corrupt, "byte 8192"},
		{"no room for a text", put(offSize, 1024), errs.Corrupt, "too small"},
		{"a size of everything", put(offSize, 1<<64-512), errs.Corrupt, "impossible"},
		{"half a sector", put(offSize, 1044481), errs.Unsupported, "whole sectors"},
	} {
		b := golden()
		c.harm(b)
		if _, err := Decode(sealed(b), 4096); !errs.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error of kind %v with %q", c.name, err, c.kind, c.want)
		}
	}
	for i := range HeaderSize {
		b := golden()
		b[i] ^= 0x80
		if _, err := Decode(b, 4096); err == nil {
			t.Errorf("a flipped bit in byte %d goes unnoticed", i)
		}
	}
	if _, err := Decode(golden()[:100], 4096); !errs.Is(err, errs.Usage) {
		t.Errorf("a short header: %v", err)
	}
}

func TestCheckLocn(t *testing.T) {
	const size = 32 << 10
	for _, c := range []struct {
		l  Locn
		ok bool
	}{
		{Locn{Offset: 512, Length: 1}, true},
		{Locn{Offset: 512, Length: size - 512}, true},
		{Locn{Offset: size - 1, Length: size - 512}, true}, // wraps
		{Locn{Offset: 1000, Length: 10}, true},             // old versions did not align
		{Locn{Offset: 0, Length: 1}, false},
		{Locn{Offset: 511, Length: 1}, false},
		{Locn{Offset: size, Length: 1}, false},
		{Locn{Offset: 512}, false},
		{Locn{Offset: 512, Length: size - 511}, false},
		{Locn{Offset: 1 << 63, Length: 1 << 63}, false},
	} {
		if err := CheckLocn(size, c.l); (err == nil) != c.ok || err != nil && !errs.Is(err, errs.Corrupt) {
			t.Errorf("%+v: %v, want ok %v", c.l, err, c.ok)
		}
	}
}

func TestSpans(t *testing.T) {
	const size = 4096
	for _, c := range []struct {
		off, length uint64
		want        []Span
	}{
		{512, 100, []Span{{512, 100}}},
		{512, 3584, []Span{{512, 3584}}},
		{3584, 512, []Span{{3584, 512}}},
		{3584, 513, []Span{{3584, 512}, {512, 1}}},
		{4095, 3584, []Span{{4095, 1}, {512, 3583}}},
	} {
		if got := Spans(size, c.off, c.length); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%d at %d: %v, want %v", c.length, c.off, got, c.want)
		}
	}
}

// The rule in its corners; that lvm2 follows it is metastore's test.
func TestPlace(t *testing.T) {
	const size = 32 << 10
	largest := MaxText(size)
	for _, c := range []struct {
		name   string
		old    Locn
		length uint64
		want   uint64 // 0: refused
	}{
		{"the first", Locn{}, 1000, 512},
		{"the largest", Locn{}, largest, 512},
		{"one too large", Locn{}, largest + 1, 0},
		{"after less than a sector", Locn{Offset: 512, Length: 100}, 100, 1024},
		{"after a whole sector", Locn{Offset: 512, Length: 512}, 100, 1024},
		{"after a sector and a byte", Locn{Offset: 512, Length: 513}, 100, 1536},
		{"in the last sector", Locn{Offset: size - 1024, Length: 512}, 100, size - 512},
		{"past the last sector", Locn{Offset: size - 512, Length: 1}, 100, 512},
		{"after one that wrapped", Locn{Offset: size - 512, Length: 1000}, 100, 1024},
		{"wrapping itself", Locn{Offset: size - 2048, Length: 1024}, 2000, size - 1024},
		{"beside the largest", Locn{Offset: 512, Length: largest}, largest, 512 + Padded(largest)},
		{"beside one that is too large", Locn{Offset: 512, Length: size - 1024}, 1024, 0},
		{"beside one that is too large, in what is left", Locn{Offset: 512, Length: size - 1024}, 512, size - 512},
		{"onto the beginning of an unaligned one", Locn{Offset: 16000, Length: size - 512 - 15488}, 15616, 0},
		{"a slot that is nonsense", Locn{Offset: 1 << 60, Length: 5}, 100, 512},
	} {
		off, err := Place(size, c.old, c.length)
		if off != c.want || (err == nil) != (c.want != 0) || err != nil && !errs.Is(err, errs.NoSpace) {
			t.Errorf("%s: at %d, %v, want %d", c.name, off, err, c.want)
		}
	}
}

// However texts follow each other, the new one never touches a sector of the
// old, and the largest text always finds a place.
func TestPlaceNeverOverlaps(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	for _, size := range []uint64{MinSize, 32 << 10, 32<<10 + 512, 1044480} {
		var old Locn
		for i := range 20000 {
			length := 1 + rng.Uint64N(MaxText(size))
			if i%5 == 0 {
				length = MaxText(size)
			}
			off, err := Place(size, old, length)
			if err != nil {
				t.Fatalf("size %d: %d bytes after %+v: %v", size, length, old, err)
			}
			used := map[uint64]bool{}
			if !old.None() && size < 100<<10 {
				for _, s := range Spans(size, old.Offset, Padded(old.Length)) {
					for at := s.Off; at < s.End(); at += HeaderSize {
						used[at] = true
					}
				}
			}
			for _, s := range Spans(size, off, Padded(length)) {
				if s.Off < HeaderSize || s.End() > size || s.Off%HeaderSize != 0 {
					t.Fatalf("size %d: %d bytes after %+v go to %+v", size, length, old, s)
				}
				for at := s.Off; at < s.End() && len(used) > 0; at += HeaderSize {
					if used[at] {
						t.Fatalf("size %d: %d bytes at %d touch %+v", size, length, off, old)
					}
				}
			}
			old = Locn{Offset: off, Length: length}
		}
	}
}

// Hostile headers never panic; what decodes encodes to the same bytes if
// nothing stands behind the slots; what slots say is judged, and placing a text
// beside it stays within the area.
func FuzzDecode(f *testing.F) {
	f.Add(golden(), uint64(4096), uint64(1000))
	h := Header{Start: 4096, Size: 32 << 10, Slots: [2]Locn{{Offset: 32<<10 - 512, Length: 3000, Flags: 1}, {Offset: 3000, Length: 4}}}
	f.Add(h.Encode(), uint64(4096), uint64(15616))
	f.Fuzz(func(t *testing.T, b []byte, start, length uint64) {
		if len(b) == HeaderSize {
			b = sealed(bytes.Clone(b))
		}
		h, err := Decode(b, start)
		if err != nil {
			return
		}
		if len(bytes.Trim(b[offSlots+2*slotSize:], "\x00")) == 0 && !bytes.Equal(h.Encode(), b) {
			t.Fatalf("%x encodes as\n%x", b, h.Encode())
		}
		old := h.Slots[Committed]
		off, err := Place(h.Size, old, max(length, 1))
		if err != nil {
			return
		}
		for _, s := range Spans(h.Size, off, Padded(max(length, 1))) {
			if s.Off < HeaderSize || s.End() > h.Size {
				t.Fatalf("%d bytes after %+v in %d go to %+v", length, old, h.Size, s)
			}
		}
	})
}
