package ovlabel

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"cowl/internal/errs"
)

func sample() *Label {
	return &Label{
		Sequence: 7, State: Merging, Format: Qcow2, Anywhere: true, Size: 1<<40 + 512, Created: 1700000000,
		Path: "/images/base disk.qcow2",
		Members: []Member{
			{Kind: File, Device: 1, Inode: 2, Size: 3, Changed: 4, Status: 5, Samples: [32]byte{6, 31: 7}},
			{Kind: Disk, Device: 1 << 63, Inode: 9, Size: 1 << 50, Changed: 1<<64 - 1},
		},
	}
}

func encode(t testing.TB, l *Label) []byte {
	t.Helper()
	b, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	plain := sample()
	plain.Members, plain.Anywhere, plain.State, plain.Format = plain.Members[:1], false, Live, Raw
	full := sample()
	full.Path = "/" + strings.Repeat("x", SlotSize-fixedSize-2*memberSize-1)
	for _, l := range []*Label{sample(), plain, full} {
		b := append(encode(t, l), make([]byte, SlotSize)...)
		got, next, err := Decode(b)
		if err != nil || next != 1 || !reflect.DeepEqual(got, l) {
			t.Errorf("got %+v, next slot %d, %v", got, next, err)
		}
	}
}

// The table of docs/format/overlay.md.
func TestLayout(t *testing.T) {
	b := encode(t, sample())
	if string(b[:8]) != "COWLOVLY" || b[8] != 1 || b[20] != 1 || b[24] != 7 || b[48] != 2 || b[52] != 1 || b[56] != 2 || b[60] != 23 {
		t.Errorf("fixed part % x", b[:64])
	}
	if b[64] != 1 || b[72] != 1 || b[80] != 2 || b[88] != 3 || b[96] != 4 || b[104] != 5 || b[112] != 6 || b[143] != 7 {
		t.Errorf("first file % x", b[64:144])
	}
	if path := string(b[224:247]); path != "/images/base disk.qcow2" {
		t.Errorf("path %q", path)
	}
}

func TestInvalid(t *testing.T) {
	for name, spoil := range map[string]func(*Label){
		"no path":           func(l *Label) { l.Path = "" },
		"a NUL in the path": func(l *Label) { l.Path = "/a\x00b" },
		"a long path":       func(l *Label) { l.Path = strings.Repeat("x", SlotSize) },
		"no files":          func(l *Label) { l.Members = nil },
		"too many files":    func(l *Label) { l.Members = make([]Member, MaxMembers+1) },
		"no bytes":          func(l *Label) { l.Size = 0 },
		"no format":         func(l *Label) { l.Format = 0 },
		"no state":          func(l *Label) { l.State = 2 },
		"no kind":           func(l *Label) { l.Members[1].Kind = 0 },
		"a negative size":   func(l *Label) { l.Members[0].Size = -1 },
	} {
		l := sample()
		spoil(l)
		if _, err := l.Encode(); !errs.Is(err, errs.Usage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever part of a slot's write survives, one of the two labels is there.
func TestTornWrite(t *testing.T) {
	old, fresh := sample(), sample()
	fresh.Sequence, fresh.Path = 8, "/elsewhere"
	for slot := range 2 {
		both := make([]byte, Size)
		copy(both[(1-slot)*SlotSize:], encode(t, old))
		older := sample()
		older.Sequence = 6
		copy(both[slot*SlotSize:], encode(t, older))
		if _, next, err := Decode(both); err != nil || next != slot {
			t.Fatalf("next slot is %d, %v; want %d", next, err, slot)
		}
		for sectors := range 8 {
			torn := bytes.Clone(both)
			for s := range 3 {
				if sectors>>s&1 != 0 {
					copy(torn[slot*SlotSize+s*512:][:512], encode(t, fresh)[s*512:])
				}
			}
			got, _, err := Decode(torn)
			if err != nil || !reflect.DeepEqual(got, old) && !reflect.DeepEqual(got, fresh) {
				t.Errorf("slot %d, sectors %03b: %+v, %v", slot, sectors, got, err)
			}
		}
	}
}

func TestDamage(t *testing.T) {
	if _, _, err := Decode(make([]byte, Size)); !errs.Is(err, errs.NotFound) {
		t.Errorf("nothing there: %v", err)
	}
	if _, _, err := Decode(nil); !errs.Is(err, errs.Corrupt) {
		t.Errorf("no bytes: %v", err)
	}
	good := append(encode(t, sample()), make([]byte, SlotSize)...)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		b := bytes.Clone(good)
		at := rng.IntN(SlotSize)
		b[at] ^= 1 << rng.IntN(8)
		want := errs.Corrupt
		switch {
		case at < 8:
			want = errs.NotFound
		case at < 12:
			want = errs.Unsupported
		}
		if l, _, err := Decode(b); !errs.Is(err, want) {
			t.Fatalf("byte %d changed: %+v, %v; want kind %v", at, l, err, want)
		}
	}
	later := sample()
	later.Sequence = 9
	next := encode(t, later)
	next[8] = 2
	if _, _, err := Decode(append(encode(t, sample()), next...)); !errs.Is(err, errs.Unsupported) {
		t.Errorf("a later version in the second slot: %v", err)
	}
}

// Any bytes give an error or a label that encodes to what was decoded.
func FuzzDecode(f *testing.F) {
	f.Add(append(encode(f, sample()), make([]byte, SlotSize)...), true)
	f.Add(make([]byte, Size), false)
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if mend && len(b) >= SlotSize { // or no mutation would come past the checksum
			copy(b, magic)
			b[8], b[9], b[10], b[11] = version, 0, 0, 0
			s := sum(b[:SlotSize])
			b[16], b[17], b[18], b[19] = byte(s), byte(s>>8), byte(s>>16), byte(s>>24)
		}
		l, next, err := Decode(b)
		if err != nil {
			return
		}
		again, err := l.Encode()
		if slot := b[(1-next)*SlotSize:][:SlotSize]; err != nil || !bytes.Equal(again, slot) {
			t.Fatalf("%+v encodes as\n%x, %v, was\n%x", l, again, err, slot)
		}
	})
}
