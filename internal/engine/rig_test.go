package engine

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/metastore"
	"cowl/internal/volume"
)

const (
	kib = 1 << 10
	mib = 1 << 20

	extent = 64 * kib // of the groups in these tests
)

var ctx = context.Background()

// until waits for a condition that has no channel of its own.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// stays fails if the channel is closed although others had every chance to
// run. (Goroutines that wait for a mutex keep synctest from telling.)
func stays(t testing.TB, what string, closed <-chan struct{}) {
	t.Helper()
	for range 1000 {
		runtime.Gosched()
	}
	select {
	case <-closed:
		t.Fatal(what)
	default:
	}
}

// random is a source of bytes that is the same in each run.
type random struct{ *rand.Rand }

func (r random) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return len(p), nil
}

func seeded(n uint64) io.Reader { return random{rand.New(rand.NewPCG(n, 0))} }

func clock() time.Time { return time.Unix(1700000000, 0).UTC() }

func storeOptions() metastore.Options {
	return metastore.Options{Writer: func() metastore.Writer {
		return metastore.Writer{Command: "test", Program: "cowl test", Host: "host", Kernel: "Linux", Time: clock()}
	}}
}

// memory returns devices filled with what must never show in a new volume.
func memory(n int, size int64) []block.Device {
	var devs []block.Device
	for range n {
		d := mem.New(size)
		d.WriteAt(bytes.Repeat([]byte{0xee}, int(size)), 0)
		devs = append(devs, d)
	}
	return devs
}

// found makes a group "vg" of the devices, pv0 being on the first.
func found[D block.Device](t testing.TB, devs []D) {
	t.Helper()
	foundWith(t, devs, extent, 0)
}

// foundWith is found with extents of a size, of which each PV has so many; 0 is
// as many as fit.
func foundWith[D block.Device](t testing.TB, devs []D, extent, count int64) {
	t.Helper()
	stamp := volume.Stamp{NewID: newIDs(1), Time: clock().Unix(), Host: "host"}
	spec := volume.GroupSpec{Name: "vg", ExtentSize: volume.Sectors(extent / 512)}
	var pvs []*metastore.PV
	for i, d := range devs {
		pv, err := metastore.CreatePV(metastore.Source{Path: fmt.Sprintf("/dev/test%d", i), Dev: d}, metastore.PVOptions{ID: stamp.NewID()})
		if err != nil {
			t.Fatal(err)
		}
		pvs = append(pvs, pv)
		spec.PVs = append(spec.PVs, pv.Spec())
		if count > 0 {
			spec.PVs[i].DataSize = volume.Sectors(extent * count / 512)
		}
	}
	vg, err := volume.NewGroup(spec, stamp)
	if err != nil {
		t.Fatal(err)
	}
	store, err := metastore.New(pvs, storeOptions())
	if err == nil {
		err = store.Precommit(vg)
	}
	if err == nil {
		err = store.Commit()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func newIDs(seed uint64) func() volume.UUID {
	r := seeded(seed)
	return func() volume.UUID {
		var b [32]byte
		r.Read(b[:])
		return volume.UUIDFrom(b)
	}
}

// assemble reads the group from the devices.
func assemble[D block.Device](devs []D) (*metastore.Found, error) {
	var pvs []*metastore.PV
	for i, d := range devs {
		pv, err := metastore.ReadPV(metastore.Source{Path: fmt.Sprintf("/dev/test%d", i), Dev: d})
		if err != nil {
			return nil, err
		}
		pvs = append(pvs, pv)
	}
	return metastore.Assemble(pvs).Find("vg")
}

// open returns the group on the devices, as another start of the program
// would.
func open[D block.Device](devs []D) (*Group, error) {
	return openWith(devs, Options{Manual: true})
}

// openWith is open with options, of which it adds what makes runs repeat.
func openWith[D block.Device](devs []D, o Options) (*Group, error) {
	f, err := assemble(devs)
	if err != nil {
		return nil, err
	}
	store, err := metastore.Open(f, storeOptions())
	if err != nil {
		return nil, err
	}
	byID := map[volume.UUID]block.Device{}
	for _, pv := range store.PVs() {
		if pv != nil {
			byID[pv.ID()] = pv.Dev
		}
	}
	if o.Now == nil {
		o.Now = clock
	}
	o.Random, o.Host = seeded(f.Group.Seqno+100), "host"
	return Open(store, byID, o)
}

// mustOpen closes the group at the end of the test.
func mustOpen[D block.Device](t testing.TB, devs []D) *Group {
	t.Helper()
	return mustOpenWith(t, devs, Options{Manual: true})
}

func mustOpenWith[D block.Device](t testing.TB, devs []D, o Options) *Group {
	t.Helper()
	g, err := openWith(devs, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Errorf("close group: %v", err)
		}
	})
	return g
}

// fresh returns an active, empty group on so many devices of 4 MiB.
func fresh(t testing.TB, n int) (*Group, []block.Device) {
	t.Helper()
	devs := memory(n, 4*mib)
	found(t, devs)
	g := mustOpen(t, devs)
	must(t)(g.Activate(ctx))
	return g, devs
}

// must fails the test where a change fails, and returns its result.
func must(t testing.TB) func(*Result, error) *Result {
	return func(r *Result, err error) *Result {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
}

// lv asks for a volume of so many extents on a PV.
func lv(name string, extents volume.Extents, pv string) volume.LVSpec {
	return volume.LVSpec{Name: name, Size: volume.Size{Extents: extents}, PVs: on(pv)}
}

// snapOf asks for a snapshot with a store of so many extents on a PV.
func snapOf(origin, name string, extents volume.Extents, pv string) volume.SnapshotSpec {
	return volume.SnapshotSpec{Origin: origin, Name: name, Size: volume.Size{Extents: extents}, PVs: on(pv)}
}

func on(pv string) []volume.PVRange {
	if pv == "" {
		return nil
	}
	return []volume.PVRange{{PV: pv, Whole: true}}
}

// opened closes the device at the end of the test, if nobody did before.
func opened(t testing.TB, g *Group, name string) block.Device {
	t.Helper()
	d, err := g.Open(ctx, name, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func write(t testing.TB, d block.Device, off int64, b byte, n int) {
	t.Helper()
	if _, err := d.WriteAt(bytes.Repeat([]byte{b}, n), off); err != nil {
		t.Fatal(err)
	}
}

// expect checks that n bytes from off on are b.
func expect(t testing.TB, what string, d block.Device, off int64, b byte, n int) {
	t.Helper()
	got := make([]byte, n)
	if _, err := d.ReadAt(got, off); err != nil {
		t.Errorf("%s: read at %d: %v", what, off, err)
		return
	}
	for i := range got {
		if got[i] != b {
			t.Errorf("%s: byte %d is %#x, want %#x", what, off+int64(i), got[i], b)
			return
		}
	}
}

func closeDev(t testing.TB, d block.Device) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// names returns the names of what is active.
func active(g *Group) map[string]bool {
	out := map[string]bool{}
	for name := range g.Status().LVs {
		out[name] = true
	}
	return out
}
