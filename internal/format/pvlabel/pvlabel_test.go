package pvlabel

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"

	"cowl/internal/errs"
	"cowl/internal/format/checksum"
)

const testID = "7u6gwUxPvzENpgV3BnLK3Kz4j3BRZgp2"

// Labels as lvm2 2.03.16 wrote them, up to their last byte that is not zero.
var goldens = []struct {
	name string
	hex  string
	want Label
}{
	{"one area, in use", `
		4c4142454c4f4e450100000000000000f75dcd1b200000004c564d3220303031
		377536677755785076 7a454e70675633426e4c4b334b7a346a3342525a677032
		00000004000000000000100000000000000000000000000000000000000000000000000000000000
		001000000000000000f00f000000000000000000000000000000000000000000
		0200000001000000`,
		Label{Sector: 1, ID: testID, DevSize: 64 << 20, Data: []Area{{1 << 20, 0}}, MDAs: []Area{{4096, 1044480}}, Version: 2, Flags: 1}},
	{"free again", `
		4c4142454c4f4e45010000000000000043680c98200000004c564d3220303031
		536c6c63576e6a35574b37774834363774707934477945665176654e70697069
		0058420600000000001410000000000000000000000000000000000000000000
		0000000000000000001000000000000000041000000000000000000000000000
		000000000000000002000000`,
		Label{Sector: 1, ID: "SllcWnj5WK7wH467tpy4GyEfQveNpipi", DevSize: 105011200, Data: []Area{{1053696, 0}}, MDAs: []Area{{4096, 1049600}}, Version: 2}},
}

// sector completes a golden with zeroes.
func sector(t testing.TB, digits string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(digits), ""))
	if err != nil {
		t.Fatal(err)
	}
	return append(b, make([]byte, Size-len(b))...)
}

func TestGoldens(t *testing.T) {
	for _, c := range goldens {
		b := sector(t, c.hex)
		l, err := Decode(b, 1)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if !reflect.DeepEqual(*l, c.want) {
			t.Errorf("%s: got %+v, want %+v", c.name, *l, c.want)
		}
		if again, err := l.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s: encoded as\n%x, %v", c.name, again, err)
		}
	}
}

// Everything a label can hold comes back.
func TestRoundTrip(t *testing.T) {
	for _, l := range []Label{
		{Sector: 0, ID: testID, DevSize: 1 << 30, Data: []Area{{4096, 0}}},
		{Sector: 3, ID: testID, DevSize: 1 << 30, Data: []Area{{4096, 1 << 20}}, MDAs: []Area{{8192, 512}, {1 << 29, 1 << 20}}, Version: 1},
		{Sector: 1, ID: testID, DevSize: 1 << 30, Version: 2, Flags: 0x80000001, Bootloader: []Area{{2 << 20, 1 << 20}}},
		{Sector: 1, ID: "!#" + testID[2:], Data: []Area{{1 << 40, 0}}, Version: 2},
	} {
		b, err := l.Encode()
		if err != nil {
			t.Errorf("%+v: %v", l, err)
			continue
		}
		if got, err := Decode(b, l.Sector); err != nil || !reflect.DeepEqual(*got, l) {
			t.Errorf("got %+v, %v, want %+v", got, err, l)
		}
	}
}

func TestSetInUse(t *testing.T) {
	old := Label{Sector: 1, ID: testID, DevSize: 1 << 30} // of a time without extensions
	l := old
	l.SetInUse(false)
	if l.InUse() || l.Version != 0 {
		t.Errorf("clearing what is not set: %+v", l)
	}
	l.SetInUse(true)
	if !l.InUse() || l.Version != ExtensionVersion || l.Validate() != nil {
		t.Errorf("setting: %+v", l)
	}
	l.Flags |= 4
	l.SetInUse(false)
	if l.InUse() || l.Flags != 4 {
		t.Errorf("clearing changes other flags: %+v", l)
	}
}

// sealed sets the checksum, as a label that lies on purpose would.
func sealed(b []byte) []byte {
	binary.LittleEndian.PutUint32(b[offChecksum:], checksum.LVM(b[offSummed:]))
	return b
}

func TestRefused(t *testing.T) {
	good := sector(t, goldens[0].hex)
	put := func(off int, v uint64) func(b []byte) {
		return func(b []byte) { binary.LittleEndian.PutUint64(b[off:], v) }
	}
	for _, c := range []struct {
		name string
		harm func(b []byte)
		kind errs.Kind
		want string
	}{
		{"no magic", func(b []byte) { b[0] = 'l' }, errs.NotFound, "no label"},
		{"another sector", put(offSector, 2), errs.Corrupt, "says that it is at sector 2"},
		{"another type", func(b []byte) { copy(b[offType:], "LVM1 001") }, errs.Unsupported, "LVM1 001"},
		{"PV header elsewhere", func(b []byte) { b[offPVHeader] = 40 }, errs.Corrupt, "at byte 40"},
		{"an identifier with a slash", func(b []byte) { b[labelHeader] = '/' }, errs.Corrupt, "identifier"},
		{"an identifier with a NUL", func(b []byte) { b[labelHeader+31] = 0 }, errs.Corrupt, "identifier"},
		{"a device beyond everything", put(offDevSize, 1<<63), errs.Corrupt, "a device of"},
		{"data outside the device", put(offLocations, 65<<20), errs.Corrupt, "outside"},
		{"an area that ends outside", put(offLocations+40, 64<<20), errs.Corrupt, "outside"},
		{"an area whose end overflows", put(offLocations+40, 1<<64-1), errs.Corrupt, "outside"},
		{"lists that do not end", func(b []byte) {
			for i := offLocations; i < len(b); i++ {
				b[i] = 1
			}
		}, errs.Corrupt, "does not end"},
		{"two data areas", put(offLocations+16, 4096), errs.Unsupported, "data areas"},
	} {
		b := bytes.Clone(good)
		c.harm(b)
		if _, err := Decode(sealed(b), 1); !errs.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error of kind %v with %q", c.name, err, c.kind, c.want)
		}
	}
	for i := range good { // any flipped bit is noticed
		b := bytes.Clone(good)
		b[i] ^= 1
		if _, err := Decode(b, 1); err == nil {
			t.Errorf("a flipped bit in byte %d goes unnoticed", i)
		}
	}
	if _, err := Decode(good[:500], 1); !errs.Is(err, errs.Usage) {
		t.Errorf("a short sector: %v", err)
	}
}

// Hostile sectors never panic, and what decodes encodes to the same bytes
// wherever the bytes have a meaning.
func FuzzDecode(f *testing.F) {
	for _, c := range goldens {
		f.Add(sector(f, c.hex), uint64(1))
	}
	l := Label{Sector: 3, ID: testID, DevSize: 1 << 30, Data: []Area{{4096, 0}}, MDAs: []Area{{8192, 512}, {1 << 29, 1 << 20}},
		Version: 2, Flags: 7, Bootloader: []Area{{2 << 20, 1 << 20}}}
	b, err := l.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, uint64(3))
	f.Fuzz(func(t *testing.T, b []byte, at uint64) {
		if len(b) == Size { // let the fuzzer past the checksum
			b = sealed(bytes.Clone(b))
		}
		l, err := Decode(b, at)
		if err != nil {
			return
		}
		again, err := l.Encode()
		if err != nil {
			t.Fatalf("%+v does not encode: %v", l, err)
		}
		same, err := Decode(again, at)
		if err != nil || !reflect.DeepEqual(l, same) {
			t.Fatalf("%+v became %+v, %v", l, same, err)
		}
		if canonical(b, l) && !bytes.Equal(again, b) {
			t.Fatalf("%x encodes as\n%x", b, again)
		}
	})
}

// canonical reports whether what the label does not use is zero: the rest of
// the sector, and the sizes in the entries that end lists.
func canonical(b []byte, l *Label) bool {
	le := binary.LittleEndian
	at := offLocations + len(l.Data)*locationSize
	ends := []int{at, at + (1+len(l.MDAs))*locationSize}
	if l.Version != 0 {
		ends = append(ends, ends[1]+locationSize+8+len(l.Bootloader)*locationSize)
	}
	for _, at := range ends {
		if le.Uint64(b[at+8:]) != 0 {
			return false
		}
	}
	return len(bytes.Trim(b[ends[len(ends)-1]+locationSize:], "\x00")) == 0
}
