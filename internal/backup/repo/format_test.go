package repo

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/kopia/kopia/repo/blob"

	"cowl/internal/errs"
)

func exampleSums(t testing.TB) []byte {
	t.Helper()
	text, err := (&sumsFile{Format: sumsFormat, Version: sumsVersion, Time: time.Unix(1_800_000_000, 0).UTC(),
		Blobs: map[blob.ID]entry{"p1": {5, strings.Repeat("ab", 32)}, "q2": {0, strings.Repeat("00", 32)}}}).encode()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Every flipped bit of a file of checksums is found.
func TestSumsDamage(t *testing.T) {
	good := exampleSums(t)
	if f, err := decodeSums(good); err != nil || len(f.Blobs) != 2 || f.Blobs["p1"].Length != 5 {
		t.Fatalf("%+v, %v", f, err)
	}
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if _, err := decodeSums(bad); !errs.Is(err, errs.Corrupt) {
				t.Fatalf("byte %d, bit %d: %v", i, bit, err)
			}
		}
	}
}

func FuzzSums(f *testing.F) {
	f.Add(exampleSums(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeSums(b)
		if err != nil {
			return
		}
		again, err := s.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeSums(again); err != nil {
			t.Error(err)
		}
	})
}

func FuzzRecord(f *testing.F) {
	rec := record()
	rec.Format, rec.Version = recordFormat, recordVersion
	rec.Image = ImageInfo{File: "f", Object: "Ix00", Layout: NewLayout(1<<30, DefaultSegment), ZeroSegment: "00", ZeroGroup: "Ix01"}
	text, err := json.Marshal(rec)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := decodeRecord(text); err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			return
		}
		// What is valid can be counted without overflow.
		l := r.Image.Layout
		if n := l.Groups(); n <= 0 || n > 16*maxGroups {
			t.Errorf("%d groups of %+v", n, l)
		}
		last := l.Groups() - 1
		if from, to := l.segments(last); from < 0 || to <= from || to != l.Segments() {
			t.Errorf("segments %d to %d of %d in the last group of %+v", from, to, l.Segments(), l)
		}
	})
}

// A layout covers its image, whatever its size, in few enough groups.
func TestLayout(t *testing.T) {
	for _, size := range []int64{512, 65536, 65537, 16 * mib, 16*mib + 512, 1 << 40, 1<<40 + 512, 16 << 40, 1 << 50} {
		l := NewLayout(size, DefaultSegment)
		if err := l.Validate(); err != nil {
			t.Errorf("%d: %v", size, err)
		}
		if l.Groups() > maxGroups {
			t.Errorf("%d: %d groups", size, l.Groups())
		}
		if got := (l.Groups()-1)*l.Group + l.groupLen(l.Groups()-1); got != size {
			t.Errorf("%d: groups cover %d", size, got)
		}
		if got := (l.Segments()-1)*l.Segment + l.segmentLen(l.Segments()-1); got != size {
			t.Errorf("%d: segments cover %d", size, got)
		}
	}
	for _, l := range []Layout{{}, {Bytes: -1, Segment: 65536, Group: minGroup}, {Bytes: 1, Segment: 3, Group: minGroup}, {Bytes: 1, Segment: 65536, Group: 4096},
		{Bytes: 1 << 62, Segment: 65536, Group: minGroup}} {
		if err := l.Validate(); !errs.Is(err, errs.Corrupt) {
			t.Errorf("%+v: %v", l, err)
		}
	}
}

func TestSet(t *testing.T) {
	l := NewLayout(1000*4096+100, 4096)
	s := NewSet(l.Segments())
	s.AddRange(l, 0, 1)
	s.AddRange(l, 63*4096+1, 4096) // two segments
	s.AddRange(l, 128*4096, 100*4096)
	s.AddRange(l, 1000*4096, 1<<40)
	s.AddRange(l, 5*4096, 0)
	var got []int64
	for i := s.next(0, s.n); i < s.n; i = s.next(i+1, s.n) {
		got = append(got, i)
	}
	if int64(len(got)) != s.Count() || s.Count() != 1+2+100+1 || got[1] != 63 || got[3] != 128 || got[len(got)-1] != 1000 {
		t.Errorf("%v", got)
	}
	if want := int64(103*4096 + 100); s.bytes(l) != want {
		t.Errorf("%d bytes instead of %d", s.bytes(l), want)
	}
	if s.any(1, 63) || !s.any(1, 64) || s.any(228, 1000) {
		t.Error("any")
	}
}
