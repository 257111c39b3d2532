//go:build linux

package kernel

import (
	"bytes"
	"testing"
)

// Groups that lvm2 made have what cowl does not make: striped volumes,
// volumes in several pieces, an origin that grew under its snapshot. cowl must
// read and write each byte where the kernel does.
func TestGroupOfLVM(t *testing.T) {
	images := newImages(t)
	k, p := newLVM(t, images...), newProgram(t)
	m := newLedger(t)
	k.start(images)
	m.must(k, "vgcreate -s 1m %s PV0 PV1 PV2", vg)
	m.must(k, "lvcreate -i 3 -I 64k -l 6 -n striped %s", vg)
	m.must(k, "lvcreate -l 2 -n grown %s PV1", vg)
	m.must(k, "lvcreate -l 1 -n between %s PV1", vg)
	m.fill(k, "striped", 6<<20)
	m.fill(k, "grown", 2<<20)
	m.fill(k, "between", 1<<20)
	for _, origin := range []string{"striped", "grown"} {
		m.must(k, "lvcreate -s -l 4 -c 8k -n %[2]s-snap %[1]s/%[2]s", vg, origin)
		m.content[origin+"-snap"] = bytes.Clone(m.content[origin])
	}
	all := []string{"striped", "grown", "between", "striped-snap", "grown-snap"}
	m.writeSome(k, all...)
	m.compare(k)

	m.must(k, "vgchange -an %s", vg)
	m.must(k, "lvextend -l +3 %s/grown PV0", vg)
	m.must(k, "vgchange -ay %s", vg)
	m.content["grown"] = append(m.content["grown"], make([]byte, 3<<20)...)
	m.write(k, lvWrite{"grown", 2 << 20, bytes.Repeat([]byte{7}, 3<<20)})
	m.compare(k)

	var from keeper = k
	for _, to := range []keeper{p, k, p} {
		m.hand(from, to, images)
		from = to
		m.compare(to)
		m.writeSome(to, all...)
		m.compare(to)
	}
	// A snapshot that is smaller than its origin is merged into it.
	m.must(p, "lvconvert --merge %s/grown-snap", vg)
	waitMerged(t, p, "grown-snap")
	copy(m.content["grown"], m.content["grown-snap"])
	delete(m.content, "grown-snap")
	m.compare(p)
	m.hand(p, k, images)
	m.compare(k)
}

// hand moves the active group from one keeper to another.
func (m *ledger) hand(from, to keeper, images []string) {
	m.t.Helper()
	m.must(from, "vgchange -an %s", vg)
	from.stop()
	to.start(images)
	m.must(to, "vgchange -ay %s", vg)
}

// fill gives a volume random content from end to end.
func (m *ledger) fill(k keeper, lv string, size int) {
	m.t.Helper()
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(m.rng.Uint32())
	}
	m.content[lv] = make([]byte, size)
	m.write(k, lvWrite{lv, 0, data})
}
