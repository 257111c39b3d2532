package engine

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/filter/trace"
	"cowl/internal/block/mem"
	"cowl/internal/volume"
)

// traced returns an active group on two devices whose changes are written
// down, with the volumes a and b on the first.
func traced(t *testing.T) (*Group, *trace.Log) {
	t.Helper()
	below := memory(2, 4*mib)
	found(t, below)
	log := new(trace.Log)
	g := mustOpen(t, []block.Device{log.Wrap("pv0", below[0]), log.Wrap("pv1", below[1])})
	must(t)(g.Activate(ctx))
	must(t)(g.CreateLV(ctx, lv("a", 2, "pv0")))
	must(t)(g.CreateLV(ctx, lv("b", 2, "pv0")))
	log.Take()
	return g, log
}

var place = regexp.MustCompile(`(\d+)\+(\d+)`)

// legible names the places on a PV: the slots of the metadata area, its
// texts, and the volumes' extents in chunks of 4 KiB.
func legible(ops string) string {
	return place.ReplaceAllStringFunc(ops, func(s string) string {
		m := place.FindStringSubmatch(s)
		off, _ := strconv.Atoi(m[1])
		n, _ := strconv.Atoi(m[2])
		switch {
		case off == 4096 && n == 512:
			return "slots"
		case off < mib:
			return "text"
		}
		return fmt.Sprintf("extent %d chunk %d+%d", (off-mib)/extent, (off-mib)%extent/4096, n/4096)
	})
}

// wantTrace compares what was done with a list that may carry remarks.
func wantTrace(t *testing.T, log *trace.Log, want string) {
	t.Helper()
	var lines []string
	for line := range strings.Lines(want) {
		op, _, _ := strings.Cut(line, "//")
		if op = strings.TrimSpace(op); op != "" {
			lines = append(lines, op)
		}
	}
	got := strings.TrimSpace(legible(log.Take()))
	if want := strings.Join(lines, "\n"); got != want {
		t.Errorf("the order of operations is\n%s\nwant\n%s", got, want)
	}
}

// What a power cut leaves behind depends on these orders. A change here is a
// change of that.
func TestTraceOfSnapshotCreation(t *testing.T) {
	g, log := traced(t)
	a, b := opened(t, g, "a"), opened(t, g, "b")
	write(t, a, 0, 1, 4096)
	write(t, b, 0, 1, 4096)
	log.Note("two snapshots at one instant")
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("a", "sa", 2, "pv1"), snapOf("b", "sb", 2, "pv1")}))
	log.Note("the first write behind it, flushed")
	write(t, a, 0, 2, 4096)
	if err := a.Flush(); err != nil {
		t.Fatal(err)
	}
	wantTrace(t, log, `
		write pv0 extent 0 chunk 0+1
		write pv0 extent 2 chunk 0+1
		two snapshots at one instant
		zero pv1 extent 0 chunk 1+1   // sa: area 0
		flush pv1
		write pv1 extent 0 chunk 0+1  // its header
		flush pv1
		flush pv1                     // as whenever a store is opened
		zero pv1 extent 2 chunk 1+1   // sb
		flush pv1
		write pv1 extent 2 chunk 0+1
		flush pv1
		flush pv1                     // as whenever a store is opened
		write pv0 text                // precommit
		write pv1 text
		flush pv0
		flush pv1
		write pv0 slots
		write pv1 slots
		flush pv0
		flush pv1
		flush pv0                     // what a and b held at the instant
		flush pv0
		write pv0 slots               // commit
		write pv1 slots
		flush pv0
		flush pv1
		the first write behind it, flushed
		write pv1 extent 0 chunk 2+1  // the old chunk
		flush pv1
		write pv1 extent 0 chunk 1+1  // its exception
		flush pv1
		write pv0 extent 0 chunk 0+1
		flush pv0
	`)
}

func TestTraceOfCreationAndRemoval(t *testing.T) {
	g, log := traced(t)
	log.Note("lvcreate")
	must(t)(g.CreateLV(ctx, lv("c", 2, "pv1")))
	wantTrace(t, log, `
		lvcreate
		zero pv1 extent 0 chunk 0+1
		flush pv1
		write pv0 text
		write pv1 text
		flush pv0
		flush pv1
		write pv0 slots
		write pv1 slots
		flush pv0
		flush pv1
		write pv0 slots
		write pv1 slots
		flush pv0
		flush pv1
	`)
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("a", "sa", 2, "pv1")}))
	log.Take()
	log.Note("lvremove")
	must(t)(g.RemoveLVs(ctx, []string{"sa"}))
	log.Note("the first write behind it")
	write(t, opened(t, g, "a"), 0, 2, 4096)
	wantTrace(t, log, `
		lvremove
		write pv0 text
		write pv1 text
		flush pv0
		flush pv1
		write pv0 slots
		write pv1 slots
		flush pv0
		flush pv1
		write pv0 slots
		write pv1 slots
		flush pv0
		flush pv1
		the first write behind it
		write pv0 extent 0 chunk 0+1
	`)
}

func TestTraceOfMerge(t *testing.T) {
	g, log := traced(t)
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("a", "sa", 2, "pv1")}))
	a, err := g.Open(ctx, "a", false)
	if err != nil {
		t.Fatal(err)
	}
	write(t, a, 0, 2, 4096)
	if err := a.Flush(); err != nil {
		t.Fatal(err)
	}
	closeDev(t, a)
	log.Take()
	must(t)(g.Merge(ctx, volume.MergeSpec{Name: "sa"}))
	gone(t, g, "sa")
	wantTrace(t, log, `
		write pv0 text                // merging_store
		write pv1 text
		flush pv0
		flush pv1
		write pv0 slots
		write pv1 slots
		flush pv0
		flush pv1
		write pv0 slots
		write pv1 slots
		flush pv0
		flush pv1
		zero pv0 extent 0 chunk 0+1   // the old chunk comes back: it was zero
		flush pv0
		write pv1 extent 0 chunk 1+1  // and its exception goes
		flush pv1
		write pv0 text                // the snapshot is removed
		write pv1 text
		flush pv0
		flush pv1
		write pv0 slots
		write pv1 slots
		flush pv0
		flush pv1
		write pv0 slots
		write pv1 slots
		flush pv0
		flush pv1
	`)
}

// A store that grows under a write: the metadata that gives it the extents is
// committed before any of them is written, and the write that was to overflow
// it is begun after that.
func TestTraceOfGrowth(t *testing.T) {
	below := memory(2, 4*mib)
	found(t, below)
	log := new(trace.Log)
	growth := Growth{Growth: volume.Growth{Threshold: 70, Percent: 20}}
	g := mustOpenWith(t, []block.Device{log.Wrap("pv0", below[0]), log.Wrap("pv1", below[1])}, Options{Growth: growth, Manual: true})
	must(t)(g.Activate(ctx))
	must(t)(g.CreateLV(ctx, lv("a", 2, "pv0")))
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("a", "sa", 1, "pv1")}))
	a := opened(t, g, "a")
	write(t, a, 0, 2, 12*4096)
	if err := a.Flush(); err != nil {
		t.Fatal(err)
	}
	log.Take()
	log.Note("four chunks, with room for two")
	write(t, a, 12*4096, 2, 4*4096)
	if err := a.Flush(); err != nil {
		t.Fatal(err)
	}
	wantTrace(t, log, `
		four chunks, with room for two
		write pv1 extent 0 chunk 14+2  // what there is room for
		flush pv1
		write pv1 extent 0 chunk 1+1
		flush pv1
		write pv0 extent 0 chunk 12+2
		write pv0 text                 // precommit of the longer store
		write pv1 text
		flush pv0
		flush pv1
		write pv0 slots
		write pv1 slots
		flush pv0
		flush pv1
		write pv0 slots                // commit
		write pv1 slots
		flush pv0
		flush pv1
		write pv1 extent 1 chunk 0+2   // only now its new extent
		flush pv1
		write pv1 extent 0 chunk 1+1
		flush pv1
		write pv0 extent 0 chunk 14+2
		flush pv0
	`)
}

// during is a device that tells of writes to the slots of its metadata area.
type during struct {
	block.Device
	slots func()
}

func (d *during) WriteAt(p []byte, off int64) (int, error) {
	if off == 4096 && d.slots != nil {
		d.slots()
	}
	return d.Device.WriteAt(p, off)
}

// Behind the instant, writes need not wait for the commit. They are in neither
// snapshot.
func TestOriginsAreWrittenOverTheCommit(t *testing.T) {
	below := memory(1, 4*mib)
	found(t, below)
	var slots func()
	g := mustOpen(t, []block.Device{&during{below[0], func() {
		if slots != nil {
			slots()
		}
	}}})
	must(t)(g.Activate(ctx))
	must(t)(g.CreateLV(ctx, lv("a", 2, "")))
	must(t)(g.CreateLV(ctx, lv("b", 2, "")))
	a, b := opened(t, g, "a"), opened(t, g, "b")
	write(t, a, 0, 1, 4096)
	write(t, b, 0, 1, 4096)
	writes := 0
	slots = func() {
		if writes++; writes != 2 { // the first is the precommit
			return
		}
		write(t, a, 0, 2, 4096)
		write(t, b, 0, 2, 4096)
		if st := g.Status().LVs; st["a"].Suspended || st["b"].Suspended {
			t.Errorf("suspended over the commit: %+v", st)
		}
	}
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("a", "sa", 2, ""), snapOf("b", "sb", 2, "")}))
	if slots = nil; writes < 2 {
		t.Fatal("no commit was seen")
	}
	expect(t, "sa", opened(t, g, "sa"), 0, 1, 4096)
	expect(t, "sb", opened(t, g, "sb"), 0, 1, 4096)
	expect(t, "a", a, 0, 2, 4096)
	expect(t, "b", b, 0, 2, 4096)
}

// Snapshots of several volumes show one instant. Somebody who writes a number
// to one volume and then to the other sees it arrive in that order in them.
func TestOneInstant(t *testing.T) {
	below := memory(1, 16*mib)
	found(t, below)
	g := mustOpen(t, below)
	must(t)(g.Activate(ctx))
	must(t)(g.CreateLV(ctx, lv("a", 2, "")))
	must(t)(g.CreateLV(ctx, lv("b", 2, "")))
	a, b := opened(t, g, "a"), opened(t, g, "b")
	var stop atomic.Bool
	var writer sync.WaitGroup
	writer.Go(func() {
		for n := uint64(1); !stop.Load(); n++ {
			number := binary.LittleEndian.AppendUint64(make([]byte, 504), n)
			for _, dev := range []block.Device{a, b} {
				if _, err := dev.WriteAt(number, 0); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	number := func(name string) uint64 {
		dev := opened(t, g, name)
		buf := make([]byte, 512)
		if _, err := dev.ReadAt(buf, 0); err != nil {
			t.Fatal(err)
		}
		return binary.LittleEndian.Uint64(buf[504:])
	}
	for i := range 12 {
		sa, sb := fmt.Sprintf("sa%d", i), fmt.Sprintf("sb%d", i)
		must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("b", sb, 2, ""), snapOf("a", sa, 2, "")}))
		if first, second := number(sa), number(sb); first != second && first != second+1 {
			t.Fatalf("the first volume's snapshot has %d, the second's %d", first, second)
		}
	}
	stop.Store(true)
	writer.Wait()
}

// atCommit returns an active group with a, holding 1, and its snapshot s, and
// lets f run at the last moment before the next commit's slots are written. f
// gets what a crash at that moment leaves.
func atCommit(t *testing.T, f func(g *Group, a block.Device, crashed func() *Group)) *Group {
	t.Helper()
	below := mem.New(4 * mib)
	found(t, []block.Device{below})
	var slots func()
	g := mustOpen(t, []block.Device{&during{below, func() {
		if slots != nil {
			slots()
		}
	}}})
	must(t)(g.Activate(ctx))
	must(t)(g.CreateLV(ctx, lv("a", 2, "")))
	a := opened(t, g, "a")
	write(t, a, 0, 1, 2*extent)
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("a", "s", 4, "")}))
	writes := 0
	slots = func() {
		if writes++; writes == 2 { // the first is the precommit
			f(g, a, func() *Group { return mustOpen(t, []block.Device{below.Clone()}) })
		}
	}
	t.Cleanup(func() {
		if writes < 2 {
			t.Error("no commit was seen")
		}
	})
	return g
}

// Until the commit has removed a snapshot, a crash may bring it back, with
// everything that was written to its origin behind it.
func TestRemovedSnapshotKeepsUntilTheCommit(t *testing.T) {
	g := atCommit(t, func(_ *Group, a block.Device, crashed func() *Group) {
		write(t, a, 0, 2, 2*extent)
		if err := a.Flush(); err != nil {
			t.Error(err)
		}
		old := crashed()
		expect(t, "the snapshot after a crash", opened(t, old, "s"), 0, 1, 2*extent)
	})
	must(t)(g.RemoveLVs(ctx, []string{"s"}))
}

// What is written behind the old end before the commit would be lost, or lie
// on extents of another volume, after a crash.
func TestLargerVolumeEndsWhereItDidUntilTheCommit(t *testing.T) {
	var a block.Device
	g := atCommit(t, func(_ *Group, d block.Device, _ func() *Group) {
		if a = d; a.Size() != 2*extent {
			t.Errorf("%d bytes before the commit", a.Size())
		}
	})
	must(t)(g.ExtendLV(ctx, volume.ExtendSpec{Name: "a", Size: volume.Size{Extents: 3}}))
	if a.Size() != 3*extent {
		t.Errorf("%d bytes behind the commit", a.Size())
	}
}
