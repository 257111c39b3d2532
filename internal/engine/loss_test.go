package engine

import (
	"errors"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/filter/fault"
	"cowl/internal/block/mem"
	"cowl/internal/volume"
)

// lossy returns an active volume a with a snapshot, on a disk that fails by
// the script.
func lossy(t *testing.T) (*Group, *fault.Script) {
	t.Helper()
	dev := mem.New(2 * mib)
	found(t, []block.Device{dev})
	script := fault.New()
	g, err := open([]block.Device{script.Wrap("pv0", dev)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	must(t)(g.Activate(ctx))
	must(t)(g.CreateLV(ctx, lv("a", 2, "")))
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("a", "s", 4, "")}))
	return g, script
}

// dataOf is where a volume's data begins on the only PV.
func dataOf(g *Group, name string) int64 {
	m := g.Model()
	return m.PVs[0].PEStart.Bytes() + m.ExtentBytes(m.LV(name).Segments[0].Stripes[0].Start)
}

// A write that was acknowledged and then did not reach the disk is reported by
// the next flush of everybody who had the volume open, whoever or whatever
// made the commit that lost it, and once each.
func TestLossIsReportedToEveryUser(t *testing.T) {
	flushes := func(d block.Device) bool { err := d.Flush(); return errors.Is(err, fault.ErrInjected) }
	for name, commit := range map[string]func(t *testing.T, g *Group){
		"a status":            func(t *testing.T, g *Group) { g.Status() },
		"a neighbour's flush": func(t *testing.T, g *Group) { opened(t, g, "a").Flush() },
		"a new snapshot": func(t *testing.T, g *Group) {
			g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("a", "t", 4, "")})
		},
		"a deactivation": func(t *testing.T, g *Group) { g.Deactivate(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			g, script := lossy(t)
			writer, other := opened(t, g, "a"), opened(t, g, "a")
			write(t, writer, 0, 1, extent)
			script.Add(fault.Rule{Device: "pv0", Ops: fault.Write, Off: dataOf(g, "a"), Len: 2 * extent})
			commit(t, g)
			if !flushes(writer) {
				t.Error("the writer was not told")
			}
			if !flushes(other) {
				t.Error("the other user was not told")
			}
			if flushes(writer) || flushes(other) {
				t.Error("told twice")
			}
			if flushes(opened(t, g, "a")) {
				t.Error("who came later was told of what others know")
			}
			write(t, writer, 0, 2, extent)
			if err := writer.Flush(); err != nil {
				t.Errorf("flush of a write that succeeded: %v", err)
			}
		})
	}
}

// What nobody was told of, the next who opens the volume and flushes it is.
func TestLossAwaitsAUser(t *testing.T) {
	g, script := lossy(t)
	d := opened(t, g, "a")
	write(t, d, 0, 1, extent)
	closeDev(t, d)
	script.Add(fault.Rule{Device: "pv0", Ops: fault.Write, Off: dataOf(g, "a"), Len: 2 * extent})
	g.Status()
	if err := opened(t, g, "a").Flush(); !errors.Is(err, fault.ErrInjected) {
		t.Errorf("flush: %v", err)
	}
}
