//go:build linux

package kernel

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"cowl/internal/manager"
	"cowl/internal/volume"
)

// A host that goes down while a snapshot is being merged may come up with the
// other implementation: it must find the merge in the metadata and finish it,
// with the origin showing the merged content from the first moment.
func TestGroupMergeHandOver(t *testing.T) {
	t.Run("lvm2 then cowl", func(t *testing.T) {
		images := newImages(t)
		k := newLVM(t, images...)
		m := newMerging(t, k, images)
		m.must(k, "lvconvert --merge --background %s/snap", vg)
		m.begun()
		start, ok := k.merging("base")
		for left := start; left > start*9/10; left, ok = k.merging("base") {
			if !ok {
				t.Fatalf("the merge of %d sectors was over before it could be stopped", start)
			}
		}
		k.die()
		m.finish(newProgram(t), images)
	})
	t.Run("cowl then lvm2", func(t *testing.T) {
		images := newImages(t)
		p := newProgram(t)
		m := newMerging(t, p, images)
		m.must(p, "vgchange -an %s", vg)
		p.stop()
		mergeSome(t, p, images)
		m.begun()
		m.finish(newLVM(t, images...), images)
	})
}

// mergeSome begins a merge with cowl in this process and stops it when some
// of it is done.
func mergeSome(t *testing.T, p *program, images []string) {
	t.Helper()
	ctx := context.Background()
	g, err := manager.NewHost(manager.HostOptions{Devices: images, RunDir: p.runDir(), StateDir: t.TempDir()}).OpenLocal(ctx, vg)
	check(t, err)
	_, err = g.Activate(ctx)
	check(t, err)
	before := cow(t, g)
	_, err = g.Merge(ctx, volume.MergeSpec{Name: "snap"})
	check(t, err)
	after := before
	for after == before {
		after = cow(t, g)
	}
	check(t, g.Close())
	t.Logf("stopped with %d of %d sectors to merge", after, before)
}

// cow returns what the snapshot's store has in use, in sectors.
func cow(t *testing.T, g manager.Group) int64 {
	t.Helper()
	st, err := g.Status(context.Background())
	check(t, err)
	c := st.LVs["snap"].Cow
	if c == nil {
		t.Fatal("the merge was over before it could be stopped")
	}
	return int64(c.Allocated)
}

// newMerging makes the group, with many scattered exceptions in the snapshot.
func newMerging(t *testing.T, k keeper, images []string) *ledger {
	t.Helper()
	const size, chunk = 10 << 20, 4096
	m := newLedger(t)
	m.content["base"] = make([]byte, size)
	k.start(images)
	m.must(k, "vgcreate -s 1m %s PV0 PV1 PV2", vg)
	m.must(k, "lvcreate -Wn -l 10 -n base %s", vg)
	m.must(k, "vgchange -ay %s", vg)
	var ws []lvWrite
	for off := int64(0); off < size; off += 64 << 10 {
		ws = append(ws, lvWrite{"base", off, bytes.Repeat([]byte{byte(m.rng.Uint32())}, 64<<10)})
	}
	m.write(k, ws...)
	for _, s := range []string{"snap", "sibling"} {
		m.must(k, "lvcreate -s -l 12 -c 4k -n %s %s/base", s, vg)
		m.content[s] = bytes.Clone(m.content["base"])
	}
	ws = nil
	for _, c := range m.rng.Perm(size / chunk)[:2000] {
		ws = append(ws, lvWrite{"snap", int64(c) * chunk, bytes.Repeat([]byte{byte(m.rng.Uint32())}, chunk)})
	}
	m.write(k, ws...)
	m.writeSome(k, "base", "sibling")
	return m
}

// begun is the moment from which the origin shows the snapshot's content.
func (m *ledger) begun() {
	m.content["base"] = m.content["snap"]
	delete(m.content, "snap")
}

// finish lets a keeper finish the merge, with writes in the middle of it.
func (m *ledger) finish(k keeper, images []string) {
	m.t.Helper()
	k.start(images)
	m.must(k, "vgchange -ay %s", vg)
	m.compare(k)
	m.writeSome(k, "base", "sibling")
	m.compare(k)
	waitMerged(m.t, k, "snap")
	m.compare(k)
	out, _ := k.run("lvs --noheadings -o lv_name,lv_attr " + vg)
	if want := "  base    owi-a-s---\n  sibling swi-a-s---\n"; out != want {
		m.t.Errorf("%s: after the merge lvs prints\n%swant\n%s", k.name(), out, want)
	}
	m.must(k, "vgchange -an %s", vg)
	k.stop()
}

// waitMerged waits until a snapshot that is being merged is gone.
func waitMerged(t *testing.T, k keeper, snapshot string) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; {
		// lvs of a volume that does not exist fails.
		if _, status := k.run(fmt.Sprintf("lvs %s/%s", vg, snapshot)); status != 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: the merge of %s does not end", k.name(), snapshot)
		}
	}
}
