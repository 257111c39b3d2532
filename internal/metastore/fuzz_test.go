package metastore

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/format/mda"
	"cowl/internal/format/pvlabel"
)

// A disk that anybody may have prepared: a label, headers and a text that lie
// in every field and have the right checksums. Reading it, listing it and
// trying to change it never panics, hangs or writes where no area is.
func FuzzHostilePV(f *testing.F) {
	g := newIDs()
	dev := mem.New(16 * mib)
	pv, err := CreatePV(Source{Path: "dev", Dev: dev}, PVOptions{ID: g.next(), MetadataCopies: ptr(2)})
	if err != nil {
		f.Fatal(err)
	}
	label, err := pv.Label.Encode()
	if err != nil {
		f.Fatal(err)
	}
	texts, err := filepath.Glob("../format/vgtext/testdata/disk/*")
	if err != nil || len(texts) == 0 {
		f.Fatal("no texts to begin with", err)
	}
	for _, path := range texts {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(label, pv.MDAs[0].header.Encode(), text, uint64(512), uint64(len(text)+1))
	}
	f.Fuzz(func(t *testing.T, label, header, text []byte, off, length uint64) {
		if len(label) != pvlabel.Size || len(header) != mda.HeaderSize || len(text) > mib {
			return
		}
		dev := mem.New(16 * mib)
		put := func(b []byte, at int64) {
			if block.CheckRange(at, int64(len(b)), dev.Size()) == nil {
				if _, err := dev.WriteAt(b, at); err != nil {
					t.Fatal(err)
				}
			}
		}
		// The text wherever its slot says, as far as that is on the device.
		text = append(text[:len(text):len(text)], make([]byte, max(0, int(min(length, mib))-len(text)))...)
		text = text[:min(length, uint64(len(text)))]
		const start, size = 4096, mib - 4096
		header = append([]byte(nil), header...)
		le := binary.LittleEndian
		le.PutUint64(header[40:], off)
		le.PutUint64(header[48:], length)
		le.PutUint32(header[56:], sum(text))
		le.PutUint32(header, sum(header[4:]))
		if off < size {
			rest := text
			for _, s := range mda.Spans(size, off, uint64(len(text))) {
				put(rest[:s.Len], start+int64(s.Off))
				rest = rest[s.Len:]
			}
		}
		put(header, start)
		label = append([]byte(nil), label...)
		le.PutUint32(label[16:], sum(label[20:]))
		put(label, 512)

		pv, err := ReadPV(Source{Path: "dev", Dev: dev})
		if err != nil {
			return
		}
		inv := Assemble([]*PV{pv})
		pv.Spec()
		for _, found := range inv.Groups {
			s, err := Open(found, testOptions())
			if err != nil {
				continue
			}
			if err := change(s, s.Group()); err != nil {
				continue
			}
			again, err := ReadPV(Source{Path: "dev", Dev: dev})
			if err != nil {
				t.Fatalf("after a commit: %v", err)
			}
			inv := Assemble([]*PV{again})
			if len(inv.Groups) != 1 || textOf(inv.Groups[0].Group) != textOf(s.Group()) {
				t.Fatalf("after a commit: %d groups, %q", len(inv.Groups), inv.Problems)
			}
		}
		for _, pv := range inv.Orphans {
			if s, err := New([]*PV{pv}, testOptions()); err == nil {
				s.Warnings()
			}
		}
	})
}
