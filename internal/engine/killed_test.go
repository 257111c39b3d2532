package engine

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"cowl/internal/block/crash"
)

// A process is killed while it removes a snapshot, at every operation; the next
// one reads the metadata that it left in the disks' caches, and the origin is
// written to. If that took what it read for durable, a power cut would bring
// back a snapshot that knows nothing of those writes.
func TestNothingReliesOnMetadataOfAKilledProcess(t *testing.T) {
	before := blank(0)
	g := mustOpen(t, before.Disks())
	must(t)(g.CreateLV(ctx, lv("base", 4, "pv0")))
	must(t)(g.CreateSnapshots(ctx, specs(snapOf("base", "s", 8, "pv1"))))
	must(t)(g.Activate(ctx))
	old, err := content(g, "s")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	states := 0
	for n := int64(1); ; n++ {
		w := before.Reboot(crash.All)[0].World()
		g := mustOpen(t, w.Disks())
		must(t)(g.Activate(ctx))
		w.CutAt(w.Ops() + n)
		_, removed := g.RemoveLVs(ctx, []string{"s"})
		_ = g.Close()
		if !w.Down() {
			if removed != nil {
				t.Fatal(removed)
			}
			break
		}
		w.Revive()
		g = mustOpen(t, w.Disks())
		must(t)(g.Activate(ctx))
		d, err := g.Open(ctx, "base", false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.WriteAt(bytes.Repeat([]byte{7}, len(old)), 0); err != nil {
			t.Fatal(err)
		}
		for name, disks := range w.Reboots(rng, 5) {
			states++
			g := mustOpen(t, disks)
			must(t)(g.Activate(ctx))
			if g.Model().LV("s") == nil {
				continue
			}
			if got, err := content(g, "s"); err == nil && !bytes.Equal(got, old) {
				t.Errorf("killed at operation %d, %s: the snapshot is there and shows what was written later", n, name)
			}
		}
	}
	t.Logf("%d states", states)
}
