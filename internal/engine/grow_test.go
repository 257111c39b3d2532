package engine

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/filter/fault"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/metastore"
	"cowl/internal/volume"
)

// growing are LVM2's usual numbers.
func growing(onFull volume.OnFull) Growth {
	return Growth{Growth: volume.Growth{Threshold: 70, Percent: 20, OnFull: onFull, Hold: time.Hour}}
}

// small returns an active group whose base of so many extents has a snapshot s
// with a store of one, on a PV that has so many extents left.
func small(t *testing.T, o Options, base, left volume.Extents) (*Group, []block.Device) {
	t.Helper()
	devs := memory(1, 4*mib)
	found(t, devs)
	g := mustOpenWith(t, devs, o)
	must(t)(g.Activate(ctx))
	must(t)(g.CreateLV(ctx, lv("base", base, "")))
	must(t)(g.CreateLV(ctx, lv("filler", g.Model().Free()-left-1, "")))
	d := opened(t, g, "base")
	write(t, d, 0, 1, int(d.Size()))
	closeDev(t, d)
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("base", "s", 1, "")}))
	return g, devs
}

func cow(g *Group, name string) CowStatus { return *g.Status().LVs[name].Cow }

// A snapshot of one extent outlives that all of its origin is replaced, at once
// or bit by bit, by writes or zeroes, or that all of its own is.
func TestSnapshotGrowsBeforeItOverflows(t *testing.T) {
	for name, fill := range map[string]func(t *testing.T, base, s block.Device){
		"one write":  func(t *testing.T, base, _ block.Device) { write(t, base, 0, 2, int(base.Size())) },
		"one zero":   func(t *testing.T, base, _ block.Device) { zeroes(t, base, 0, base.Size()) },
		"its own":    func(t *testing.T, _, s block.Device) { zeroes(t, s, 0, s.Size()); write(t, s, 0, 1, int(s.Size())) },
		"bit by bit": bitByBit,
	} {
		for _, manual := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				g, devs := small(t, Options{Growth: growing(""), Manual: manual}, 20, 26)
				base, s := opened(t, g, "base"), opened(t, g, "s")
				fill(t, base, s)
				if err := base.Flush(); err != nil {
					t.Fatal(err)
				}
				expect(t, "snapshot", s, 0, 1, 20*extent)
				size := g.Model().LV("s").Extents()
				if max := g.Model().ExtentsFor(volume.CowMax(20*extent, 8)); size < 20 || size > max {
					t.Errorf("the store has %d extents, at most %d are of use", size, max)
				}
				if c := cow(g, "s"); c.Invalid || c.Short != "" {
					t.Errorf("%+v", c)
				}
				again := mustOpen(t, []block.Device{devs[0].(*mem.Device).Clone()})
				expect(t, "snapshot after a crash", opened(t, again, "s"), 0, 1, 20*extent)
			})
		}
	}
}

func zeroes(t *testing.T, d block.Device, off, n int64) {
	t.Helper()
	if err := d.WriteZeroes(off, n); err != nil {
		t.Fatal(err)
	}
}

func bitByBit(t *testing.T, base, _ block.Device) {
	t.Helper()
	for _, c := range rand.New(rand.NewPCG(1, 1)).Perm(int(base.Size() / 4096)) {
		write(t, base, int64(c)*4096+7, 2, 100)
	}
}

// Nobody's write has to wait where there is time: the store is extended at the
// threshold, while it has room.
func TestThreshold(t *testing.T) {
	g, _ := small(t, Options{Growth: growing("")}, 4, 10)
	base := opened(t, g, "base")
	write(t, base, 0, 2, 9*4096) // with header and area 11 of 16 chunks: 69 %
	if c := cow(g, "s"); c.Total != extent/512 || c.Threshold != 70 {
		t.Fatalf("at the threshold: %+v", c)
	}
	write(t, base, 9*4096, 2, 4096) // 75 %
	if err := base.Flush(); err != nil {
		t.Fatal(err)
	}
	until(t, "the store is extended", func() bool { return cow(g, "s").Total == 2*extent/512 })
}

// A store that is above its threshold when it is activated need not wait for a
// write.
func TestThresholdAtActivation(t *testing.T) {
	g, devs := small(t, Options{Manual: true}, 4, 10)
	write(t, opened(t, g, "base"), 0, 2, 12*4096)
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	g = mustOpenWith(t, devs, Options{Growth: growing("")})
	must(t)(g.Activate(ctx))
	until(t, "the store is extended", func() bool { return cow(g, "s").Total > extent/512 })
}

// Nothing is left: LVM's way.
func TestFullInvalidates(t *testing.T) {
	g, _ := small(t, Options{Growth: growing(volume.OnFullInvalidate), Manual: true}, 4, 1)
	base := opened(t, g, "base")
	write(t, base, 0, 2, 4*extent)
	if err := base.Flush(); err != nil {
		t.Fatal(err)
	}
	if c := cow(g, "s"); !c.Invalid || c.Total != 2*extent/512 || !strings.Contains(c.Short, "no free extents") {
		t.Errorf("%+v", c)
	}
	expect(t, "base", base, 0, 2, 4*extent)
}

// With readonly the snapshot outlives its origin's writes; what was copied may
// be written again and again, and space makes all well.
func TestFullReadOnly(t *testing.T) {
	g, devs := small(t, Options{Growth: growing(volume.OnFullReadOnly), Manual: true}, 4, 1)
	base, s := opened(t, g, "base"), opened(t, g, "s")
	n, err := base.WriteAt(bytes.Repeat([]byte{2}, 4*extent), 0)
	if chunks := 2*extent/4096 - 2; !errs.Is(err, errs.NoSpace) || n != chunks*4096 || !strings.Contains(err.Error(), "vg/s is full") {
		t.Fatalf("%d bytes, %v", n, err)
	}
	for range 3 {
		write(t, base, 0, 3, n)
		if _, err := base.WriteAt([]byte{3}, int64(n)); !errs.Is(err, errs.NoSpace) || errs.HintOf(err) == "" {
			t.Fatalf("a first write: %v", err)
		}
		if _, err := s.WriteAt([]byte{3}, int64(n)); !errs.Is(err, errs.NoSpace) {
			t.Fatalf("the snapshot's own: %v", err)
		}
		if err := base.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, "snapshot", s, 0, 1, 4*extent)
	expect(t, "base", base, 0, 3, n)
	expect(t, "the rest of base", base, int64(n), 1, 4*extent-n)
	if c := cow(g, "s"); c.Invalid || c.Short == "" || c.OnFull != "readonly" {
		t.Errorf("%+v", c)
	}
	more := memory(1, 4*mib)
	pv, err := metastore.CreatePV(metastore.Source{Path: "/dev/more", Dev: more[0]}, metastore.PVOptions{ID: newIDs(9)()})
	if err != nil {
		t.Fatal(err)
	}
	must(t)(g.AddPVs(ctx, []*metastore.PV{pv}))
	write(t, base, 0, 4, 4*extent)
	if err := base.Flush(); err != nil {
		t.Fatal(err)
	}
	expect(t, "snapshot with more room", s, 0, 1, 4*extent)
	if c := cow(g, "s"); c.Short != "" {
		t.Errorf("%+v", c)
	}
	g.Close()
	again := mustOpen(t, append(devs, more...))
	expect(t, "snapshot after reopening", opened(t, again, "s"), 0, 1, 4*extent)
}

// held begins a write that has to wait, and returns what tells of its end.
func held(t *testing.T, g *Group, d block.Device, off int64, n int) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := d.WriteAt(bytes.Repeat([]byte{2}, n), off)
		done <- err
	}()
	until(t, "the write waits", func() bool { return cow(g, "s").Holding > 0 })
	return done
}

// With hold the writes wait, and others need not wait for them: whatever gives
// them space, or an end, wakes them.
func TestFullHolds(t *testing.T) {
	for name, help := range map[string]func(t *testing.T, g *Group){
		"lvremove": func(t *testing.T, g *Group) { must(t)(g.RemoveLVs(ctx, []string{"other"})) },
		"lvremove of the snapshot": func(t *testing.T, g *Group) {
			must(t)(g.RemoveLVs(ctx, []string{"s"}))
		},
		"lvchange": func(t *testing.T, g *Group) {
			must(t)(g.ChangeTags(ctx, "s", []string{volume.OnFullTag(volume.OnFullInvalidate)}, nil))
		},
	} {
		t.Run(name, func(t *testing.T) {
			g, _ := small(t, Options{Growth: growing(volume.OnFullHold), Manual: true}, 4, 6)
			must(t)(g.CreateLV(ctx, lv("other", 4, "")))
			base := opened(t, g, "base")
			if !base.Caps().Waits {
				t.Error("nobody is told that writes may wait")
			}
			done := held(t, g, base, 0, 4*extent)
			expect(t, "base meanwhile", base, 3*extent, 1, extent)
			if err := base.Flush(); err != nil {
				t.Error(err)
			}
			help(t, g)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if err := base.Flush(); err != nil {
				t.Fatal(err)
			}
			if waits := name == "lvremove"; base.Caps().Waits != waits {
				t.Errorf("writes may wait: %v, want %v", !waits, waits)
			}
			expect(t, "base", base, 0, 2, 4*extent)
			if name == "lvremove" {
				expect(t, "snapshot", opened(t, g, "s"), 0, 1, 4*extent)
			}
			if name == "lvchange" && !cow(g, "s").Invalid {
				t.Error("the snapshot is valid, and the write was made")
			}
		})
	}
}

// While writes wait for space, snapshots are taken, removed and extended.
func TestHeldWritesHoldUpNobody(t *testing.T) {
	g, _ := small(t, Options{Growth: Growth{Growth: volume.Growth{Threshold: 100, Percent: 20, OnFull: volume.OnFullHold, Hold: time.Hour}}, Manual: true}, 4, 12)
	base := opened(t, g, "base")
	done := held(t, g, base, 0, 4*extent)
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("base", "late", 5, "")}))
	must(t)(g.RemoveLVs(ctx, []string{"filler"}))
	must(t)(g.SetReadOnly(ctx, "late", true))
	until(t, "the write waits again", func() bool { return cow(g, "s").Holding > 0 })
	must(t)(g.ExtendLV(ctx, volume.ExtendSpec{Name: "s", Size: volume.Size{Extents: 5}}))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	expect(t, "base", base, 0, 2, 4*extent)
	expect(t, "snapshot", opened(t, g, "s"), 0, 1, 4*extent)
	late := opened(t, g, "late")
	expect(t, "the later snapshot, of what was written before", late, 0, 2, extent-2*4096)
	expect(t, "and of what was not", late, extent-2*4096, 1, 3*extent+2*4096)
}

// Nobody waits longer than he is told to, nor for a group that is closed.
func TestHoldEnds(t *testing.T) {
	growth := growing(volume.OnFullHold)
	growth.Hold = time.Millisecond
	g, _ := small(t, Options{Growth: growth, Manual: true}, 4, 0)
	base := opened(t, g, "base")
	write(t, base, 0, 2, 4*extent)
	if err := base.Flush(); err != nil || !cow(g, "s").Invalid {
		t.Errorf("%v, %+v", err, cow(g, "s"))
	}

	g, _ = small(t, Options{Growth: growing(volume.OnFullHold), Manual: true}, 4, 0)
	done := held(t, g, opened(t, g, "base"), 0, 4*extent)
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errs.Is(err, errs.Conflict) {
		t.Errorf("a write that waited when the group was closed: %v", err)
	}
}

// A merge that finds no room in a sibling waits, and can be stopped.
func TestMergeWaitsForRoom(t *testing.T) {
	g, devs := small(t, Options{Growth: growing(volume.OnFullReadOnly), Manual: true}, 4, 12)
	must(t)(g.CreateLV(ctx, lv("other", 4, "")))
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("base", "m", 5, "")}))
	m := opened(t, g, "m")
	write(t, m, 0, 3, 4*extent)
	closeDev(t, m)
	if free := g.Model().Free(); free != 3 {
		t.Fatalf("%d extents are free", free)
	}
	must(t)(g.Merge(ctx, volume.MergeSpec{Name: "m"}))
	until(t, "the merge waits", func() bool { return cow(g, "s").Holding > 0 })
	if c := cow(g, "m"); c.MergeFailed {
		t.Errorf("%+v", c)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	g = mustOpenWith(t, devs, Options{Growth: growing(volume.OnFullReadOnly), Manual: true})
	must(t)(g.Activate(ctx))
	until(t, "the merge waits again", func() bool { return cow(g, "s").Holding > 0 })
	must(t)(g.RemoveLVs(ctx, []string{"other"}))
	gone(t, g, "m")
	expect(t, "base", opened(t, g, "base"), 0, 3, 4*extent)
	expect(t, "sibling", opened(t, g, "s"), 0, 1, 4*extent)
}

// A PV's file grows where the group has no free extents.
func TestPVGrows(t *testing.T) {
	var grown []int64
	growth := growing(volume.OnFullReadOnly)
	var long *longer
	growth.EnlargePV = func(_ volume.UUID, dev block.Device, size int64) (int64, error) {
		if dev != block.Device(long) {
			return 0, errs.E(errs.Unsupported, "this one is a disk")
		}
		if size > long.Device.Size() {
			return 0, errs.E(errs.NoSpace, "the file system is full")
		}
		grown = append(grown, size)
		long.size = size + 512 // a file system may round up
		return long.size, long.Flush()
	}
	long = &longer{Device: mem.New(4 * mib), size: 2 * mib}
	devs := []block.Device{memory(1, 2*mib)[0], long}
	found(t, devs)
	g := mustOpenWith(t, devs, Options{Growth: growth, Manual: true})
	must(t)(g.Activate(ctx))
	must(t)(g.CreateLV(ctx, lv("base", 16, "pv0")))
	must(t)(g.CreateLV(ctx, lv("filler", 15, "pv1")))
	d := opened(t, g, "base")
	write(t, d, 0, 1, 16*extent)
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("base", "s", 1, "pv1")}))
	write(t, d, 0, 2, 16*extent)
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	expect(t, "snapshot", opened(t, g, "s"), 0, 1, 16*extent)
	pv := g.Model().PVs[1]
	if len(grown) == 0 || pv.DevSize.Bytes() != long.size || int64(pv.PECount) != (long.size-mib)/extent {
		t.Errorf("grown to %d, the metadata has %d in %d extents", grown, pv.DevSize.Bytes(), pv.PECount)
	}
	g.Close()
	expect(t, "snapshot after reopening", opened(t, mustOpen(t, devs), "s"), 0, 1, 16*extent)
}

// longer is a device that can be made longer.
type longer struct {
	*mem.Device
	size int64
}

func (d *longer) Size() int64 { return d.size }

// Growth whose metadata cannot be written is no growth: the policy decides,
// nothing that was acknowledged is lost, and the disk holds one group.
func TestGrowthFails(t *testing.T) {
	const metadata = mib
	fired := 0
	for _, onFull := range []volume.OnFull{volume.OnFullInvalidate, volume.OnFullReadOnly} {
		for _, rule := range []fault.Rule{{}, {After: true}, {Always: true}, {Always: true, After: true}} {
			for nth, hit := 1, true; hit; nth++ {
				below := mem.New(4 * mib)
				found(t, []block.Device{below})
				script := fault.New()
				g, err := openWith([]block.Device{script.Wrap("pv0", below)}, Options{Growth: growing(onFull), Manual: true})
				if err != nil {
					t.Fatal(err)
				}
				must(t)(g.Activate(ctx))
				must(t)(g.CreateLV(ctx, lv("base", 4, "")))
				base := opened(t, g, "base")
				write(t, base, 0, 1, 4*extent)
				must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("base", "s", 1, "")}))
				rule.Ops, rule.Off, rule.Len, rule.Nth = fault.Write, 0, metadata, nth
				script.Add(rule)
				n, err := base.WriteAt(bytes.Repeat([]byte{2}, 4*extent), 0)
				if hit = script.Fired() > 0; hit {
					fired++
				}
				if err != nil && (onFull != volume.OnFullReadOnly || !errs.Is(err, errs.NoSpace)) {
					t.Errorf("%s, %+v: %v", onFull, rule, err)
				}
				if err := base.Flush(); err != nil {
					t.Errorf("%s, %+v: flush: %v", onFull, rule, err)
				}
				g.Close()
				again := mustOpen(t, []block.Device{below})
				after := opened(t, again, "base")
				expect(t, "base", after, 0, 2, n)
				expect(t, "the rest of base", after, int64(n), 1, 4*extent-n)
				switch c := cow(again, "s"); {
				case !c.Invalid:
					expect(t, "snapshot", opened(t, again, "s"), 0, 1, 4*extent)
				case onFull == volume.OnFullReadOnly:
					t.Errorf("%+v: the snapshot is invalid", rule)
				}
				if t.Failed() {
					return
				}
			}
		}
	}
	if fired < 20 {
		t.Errorf("only %d faults fired", fired)
	}
}

// onWrite calls f, if it is set, before every write to metadata.
type onWrite struct {
	*mem.Device
	f atomic.Pointer[func()]
}

func (d *onWrite) WriteAt(p []byte, off int64) (int, error) {
	if f := d.f.Load(); off < mib && f != nil {
		(*f)()
	}
	return d.Device.WriteAt(p, off)
}

// What is written between a snapshot's instant and the commit that makes it one
// waits for room as later writes do: it does not make it overflow.
func TestSnapshotDoesNotOverflowAtItsBirth(t *testing.T) {
	dev := &onWrite{Device: mem.New(8 * mib)}
	found(t, []*onWrite{dev})
	g := mustOpenWith(t, []*onWrite{dev}, Options{Growth: growing("")})
	must(t)(g.Activate(ctx))
	must(t)(g.CreateLV(ctx, lv("base", 8, "")))
	base := opened(t, g, "base")
	write(t, base, 0, 1, 8*extent)
	create := func(f func()) {
		dev.f.Store(&f)
		must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("base", "s", 1, "")}))
		dev.f.Store(nil)
	}
	writes := 0
	create(func() { writes++ })
	must(t)(g.RemoveLVs(ctx, []string{"s"}))

	var problem error
	done := make(chan struct{})
	create(func() {
		if writes--; writes > 0 { // the last is the commit
			return
		}
		go func() {
			defer close(done)
			_, err := base.WriteAt(bytes.Repeat([]byte{2}, 8*extent), 0)
			problem = errors.Join(err, base.Flush())
		}()
		select { // unless it waits for the commit, there is time to overflow
		case <-done:
		case <-time.After(50 * time.Millisecond):
		}
	})
	<-done
	if problem != nil {
		t.Fatal(problem)
	}
	expect(t, "snapshot", opened(t, g, "s"), 0, 1, 8*extent)
	expect(t, "base", base, 0, 2, 8*extent)
}

// Everything at once, with stores that are always too small: nobody waits for
// anybody who waits for him, and every snapshot keeps its instant.
func TestGrowthUnderEverything(t *testing.T) {
	rounds := 6
	devs := memory(2, 24*mib)
	found(t, devs)
	g := mustOpenWith(t, devs, Options{Growth: growing("")})
	must(t)(g.Activate(ctx))
	for _, name := range []string{"a", "b"} {
		must(t)(g.CreateLV(ctx, lv(name, 24, "")))
	}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	defer clients.Wait()
	defer close(stop)
	for i := range 6 {
		d := opened(t, g, []string{"a", "b"}[i%2])
		rng := rand.New(rand.NewPCG(uint64(i), 7))
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				var err error
				switch n, off := 512*(1+rng.IntN(60)), rng.Int64N(24*extent/512-60)*512; rng.IntN(8) {
				case 0:
					err = d.WriteZeroes(off, int64(n))
				case 1:
					err = d.Flush()
				case 2:
					_, err = d.WriteAt(make([]byte, 333), off+1)
				default:
					_, err = d.WriteAt(bytes.Repeat([]byte{byte(i)}, n), off)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range rounds {
		must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("a", "sa", 1, ""), snapOf("b", "sb", 1, ""), snapOf("a", "m", 1, "")}))
		first, err := content(g, "sa")
		if err != nil {
			t.Fatal(err)
		}
		m := opened(t, g, "m")
		write(t, m, 0, 9, 3*extent)
		closeDev(t, m)
		if _, err := g.ExtendLV(ctx, volume.ExtendSpec{Name: "sb", Size: volume.Size{Extents: 1}, Relative: true}); err != nil && !errs.Is(err, errs.Conflict) {
			t.Fatal(err) // it may be as large as it can get
		}
		until(t, "the snapshots have grown", func() bool { return cow(g, "sa").Total > 8*extent/512 && cow(g, "m").Total > 4*extent/512 })
		again, err := content(g, "sa")
		if err != nil || !bytes.Equal(first, again) {
			t.Fatalf("the snapshot changed: %v", err)
		}
		for _, name := range []string{"sa", "sb", "m"} {
			if c := cow(g, name); c.Invalid {
				t.Fatalf("%s: %+v", name, c)
			}
		}
		must(t)(g.RemoveLVs(ctx, []string{"sa", "sb", "m"}))
	}
}
