//go:build linux

package kernel

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// A store that cowl has extended by itself is the kernel's as well as any
// other: it activates it, writes on, gives it back to grow further, and merges it.
func TestGrownStore(t *testing.T) {
	images := newImages(t)
	k, p := newLVM(t, images...), newProgram(t)
	m := newLedger(t)
	const size = 10 << 20
	p.start(images)
	m.must(p, "vgcreate -s 1m %s PV0 PV1 PV2", vg)
	m.must(p, "lvcreate -Wn -l %d -n base %s", size>>20, vg)
	m.must(p, "vgchange -ay %s", vg)
	m.fill(p, "base", size)
	m.must(p, "lvcreate -s -l 1 -n snap %s/base", vg)
	m.content["snap"] = bytes.Clone(m.content["base"])
	m.write(p, lvWrite{"base", 0, bytes.Repeat([]byte{1}, size/2)})
	m.compare(p)
	first := extents(t, p, "snap")
	if first < 6 {
		t.Errorf("with 5 MiB of changes the store has %d extents", first)
	}

	m.hand(p, k, images)
	m.compare(k)
	m.writeSome(k, "base", "snap")
	m.compare(k)
	if now := extents(t, k, "snap"); now != first {
		t.Errorf("under the kernel the store has %d extents, under cowl it had %d", now, first)
	}

	m.hand(k, p, images)
	m.write(p, lvWrite{"base", 0, bytes.Repeat([]byte{2}, size)})
	m.compare(p)
	if now := extents(t, p, "snap"); now <= first {
		t.Errorf("the store has %d extents, and had %d", now, first)
	}

	m.hand(p, k, images)
	m.compare(k)
	m.must(k, "lvconvert --merge %s/snap", vg)
	waitMerged(t, k, "snap")
	m.begun()
	m.compare(k)
	m.must(k, "vgchange -an %s", vg)
	k.stop()
}

// extents returns how large a volume is.
func extents(t *testing.T, k keeper, lv string) int {
	t.Helper()
	out, status := k.run(fmt.Sprintf("lvs --noheadings --units m --nosuffix -o lv_size %s/%s", vg, lv))
	var n float64
	if _, err := fmt.Sscanf(strings.TrimSpace(out), "%f", &n); err != nil || status != 0 {
		t.Fatalf("%s: lvs: %q, %v", k.name(), out, err)
	}
	return int(n)
}
