package metastore

import (
	"fmt"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/filter/fault"
	"cowl/internal/block/mem"
	"cowl/internal/format/mda"
)

// One damaged area never hides the other, whatever happened to it, and the next
// commit repairs what can be repaired.
func TestOneAreaDamaged(t *testing.T) {
	for _, c := range []struct {
		name   string
		harm   func(t *testing.T, d *mem.Device, m *MDA)
		repair bool
	}{
		{"a bit of the header", func(t *testing.T, d *mem.Device, m *MDA) { flip(t, d, m.Offset+30) }, true},
		{"the whole header", func(t *testing.T, d *mem.Device, m *MDA) { damage(t, d, m.Offset) }, true},
		{"a header of zeroes", func(t *testing.T, d *mem.Device, m *MDA) {
			if err := d.WriteZeroes(m.Offset, 512); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"a bit of the text", func(t *testing.T, d *mem.Device, m *MDA) {
			flip(t, d, m.Offset+int64(m.header.Slots[0].Offset)+7)
		}, true},
		{"a text that is none, with the right checksum", func(t *testing.T, d *mem.Device, m *MDA) {
			rewrite(t, d, m, []byte("vg {\nid = \"\"\n}\n"))
		}, true},
		{"a slot that points outside", func(t *testing.T, d *mem.Device, m *MDA) {
			l := m.header.Slots[0]
			l.Offset = m.header.Size + 512
			if err := m.writeSlots(l, mda.Locn{}); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"a header that claims more than the label", func(t *testing.T, d *mem.Device, m *MDA) {
			m.header.Size *= 2
			if err := m.writeSlots(m.header.Slots[0], mda.Locn{}); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"a header of a version to come", func(t *testing.T, d *mem.Device, m *MDA) {
			reversion(t, d, m)
		}, false},
	} {
		for which := range 2 {
			t.Run(fmt.Sprintf("%s, area %d", c.name, which), func(t *testing.T) {
				g := newIDs()
				dev := mem.New(16 * mib)
				s := founded(t, g, "vg", create(t, g, PVOptions{MetadataCopies: ptr(2)}, dev)...)
				want := textOf(s.Group())
				c.harm(t, dev, readAll(t, dev)[0].MDAs[which])

				f := assembled(t, dev)
				if got := textOf(f.Group); got != want {
					t.Fatalf("the group is\n%s", got)
				}
				if len(f.Problems) != 1 {
					t.Fatalf("problems: %q, want one", f.Problems)
				}
				s = reopened(t, dev)
				if err := change(s, withLV(t, g, s.Group(), "a")); err != nil {
					t.Fatal(err)
				}
				f = assembled(t, dev)
				if got := textOf(f.Group); got != textOf(s.Group()) {
					t.Fatalf("after a change the group is\n%s", got)
				}
				if repaired := len(f.Problems) == 0; repaired != c.repair {
					t.Fatalf("repaired: %v, want %v; problems: %q", repaired, c.repair, f.Problems)
				}
				if warned := len(s.Warnings()) > 0; warned == c.repair {
					t.Fatalf("warned: %v, want %v", warned, !c.repair)
				}
			})
		}
	}
}

// rewrite puts another text in the place of the committed one.
func rewrite(t *testing.T, d block.Device, m *MDA, text []byte) {
	t.Helper()
	if _, err := d.WriteAt(text, m.Offset+512); err != nil {
		t.Fatal(err)
	}
	l := mda.Locn{Offset: 512, Length: uint64(len(text)), Checksum: sum(text)}
	if err := m.writeSlots(l, mda.Locn{}); err != nil {
		t.Fatal(err)
	}
}

// reversion raises the version of an area's header.
func reversion(t *testing.T, d block.Device, m *MDA) {
	t.Helper()
	b := m.header.Encode()
	b[20]++
	s := sum(b[4:])
	copy(b, []byte{byte(s), byte(s >> 8), byte(s >> 16), byte(s >> 24)})
	if _, err := d.WriteAt(b, m.Offset); err != nil {
		t.Fatal(err)
	}
}

// A disk that answers no read of one area still gives the other.
func TestUnreadableArea(t *testing.T) {
	g := newIDs()
	dev := mem.New(16 * mib)
	s := founded(t, g, "vg", create(t, g, PVOptions{MetadataCopies: ptr(2)}, dev)...)
	want := textOf(s.Group())

	script := fault.New(fault.Rule{Ops: fault.Read, Off: 4096, Len: 512, Always: true})
	broken := script.Wrap("broken", dev)
	s = reopened(t, broken)
	if got := textOf(s.Group()); got != want {
		t.Fatalf("the group is\n%s", got)
	}
	if err := change(s, withLV(t, g, s.Group(), "a")); err != nil {
		t.Fatal(err)
	}
	if w := s.Warnings(); len(w) != 1 {
		t.Errorf("warnings: %q, want one", w)
	}
	if script.Fired() == 0 {
		t.Error("the fault did not fire")
	}
	// Read again, the area turns out to be stale, and the next commit renews it.
	f := assembled(t, dev)
	if f.Group.Seqno != 2 || len(f.Problems) != 1 {
		t.Fatalf("seqno %d, problems %q", f.Group.Seqno, f.Problems)
	}
	s = reopened(t, dev)
	mustChange(t, s, s.Group())
	if f := assembled(t, dev); len(f.Problems) > 0 {
		t.Fatalf("problems %q", f.Problems)
	}
}
