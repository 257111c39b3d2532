package backup

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/forecast"
	"cowl/internal/manager"
	"cowl/internal/snap"
	"cowl/internal/volume"
)

// fakeGroup is a manager.Group over memory, with the real copy-on-write
// engine below and none of what makes a group durable. Its hooks are for what
// goes wrong.
type fakeGroup struct {
	t *testing.T

	mu   sync.Mutex
	vg   *volume.Group
	vols map[string]*fakeLV

	created  func() error                                   // after a snapshot was made
	wrap     func(name string, d block.Device) block.Device // around what Open returns
	remove   func(name string) error                        // instead of success
	retag    func(name string) error                        // before tags are changed
	gone     func() bool                                    // nobody answers any more
	unserved bool                                           // volumes are active only while they are open
	snapFile func(origin string) string                     // makes a snapshot that is a file
}

type fakeLV struct {
	dev    block.Device
	origin *snap.Origin // of volumes
	store  *snap.Store  // of snapshots
	of     *fakeLV
	opens  int
	file   string
}

// newGroup returns a group of 1 TiB with extents of 64 KiB.
func newGroup(t *testing.T) *fakeGroup {
	t.Helper()
	vg, err := volume.NewGroup(volume.GroupSpec{
		Name: "vg-0", ExtentSize: 128,
		PVs: []volume.PVSpec{{ID: newID(), Device: "/nowhere", DevSize: 5 << 31, PEStart: 2048}},
	}, stamp())
	if err != nil {
		t.Fatal(err)
	}
	return &fakeGroup{t: t, vg: vg, vols: map[string]*fakeLV{}}
}

func newID() volume.UUID {
	var b [32]byte
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return volume.UUIDFrom(b)
}

func stamp() volume.Stamp {
	return volume.Stamp{NewID: newID, Time: 1_700_000_000, Host: "test"}
}

// add makes a volume over a device of its own.
func (g *fakeGroup) add(name string, dev block.Device) *fakeLV {
	g.t.Helper()
	c, err := g.vg.CreateLV(volume.LVSpec{Name: name, Size: volume.Size{Bytes: dev.Size()}}, stamp())
	if err != nil {
		g.t.Fatal(err)
	}
	g.vg = c.Group
	if got := g.vg.LVSize(g.vg.LV(name)).Bytes(); got != dev.Size() {
		g.t.Fatalf("a volume of %d bytes over a device of %d", got, dev.Size())
	}
	o := snap.NewOrigin(dev, snap.OriginOptions{})
	v := &fakeLV{dev: o, origin: o}
	g.vols[name] = v
	return v
}

// volumeOf makes a volume of size bytes with data in it: pieces of 1 byte to
// 200 KiB with holes between, from the seed.
func (g *fakeGroup) volumeOf(name string, size int64, seed uint64) *fakeLV {
	g.t.Helper()
	dev := mem.New(size)
	scatter(g.t, dev, seed, 20)
	return g.add(name, dev)
}

// grow gives a volume a longer device with the same beginning. Its snapshots
// stay with the old one, whose content no longer changes.
func (g *fakeGroup) grow(v *fakeLV, longer block.Device) {
	g.t.Helper()
	for name, lv := range g.vols {
		if lv == v {
			c, err := g.vg.ExtendLV(volume.ExtendSpec{Name: name, Size: volume.Size{Bytes: longer.Size()}})
			if err != nil {
				g.t.Fatal(err)
			}
			g.vg = c.Group
		}
	}
	v.origin = snap.NewOrigin(longer, snap.OriginOptions{})
	v.dev = v.origin
}

func scatter(t *testing.T, dev block.Device, seed uint64, pieces int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 0))
	for range pieces {
		b := make([]byte, min(1+rng.Int64N(200<<10), dev.Size()))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		if _, err := dev.WriteAt(b, rng.Int64N(dev.Size()-int64(len(b))+1)); err != nil {
			t.Fatal(err)
		}
	}
}

func content(t *testing.T, dev block.Device) []byte {
	t.Helper()
	b := make([]byte, dev.Size())
	if _, err := dev.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

func (g *fakeGroup) Status(ctx context.Context) (*manager.Status, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if g.gone != nil && g.gone() {
		return nil, errGone
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	st := &manager.Status{Group: g.vg.Clone(), LVs: map[string]manager.LVStatus{}}
	for name, v := range g.vols {
		if v.origin != nil {
			v.origin.Settle()
		}
		rt := manager.LVStatus{Opens: v.opens, File: v.file}
		if v.store != nil {
			u := v.store.Usage()
			rt.Cow = &manager.CowStatus{Allocated: volume.Sectors(u.Allocated >> 9), Total: volume.Sectors(u.Total >> 9), Invalid: u.Invalid, Reason: u.Reason}
		} else if v.of != nil {
			rt.Cow = &manager.CowStatus{Total: 1000, Allocated: 500}
		}
		st.LVs[name] = rt
	}
	return st, nil
}

func (g *fakeGroup) CreateSnapshotsWhile(ctx context.Context, specs []volume.SnapshotSpec, _ time.Duration, held func(context.Context) error) (*manager.Result, error) {
	if err := held(ctx); err != nil {
		return nil, err
	}
	return g.CreateSnapshots(ctx, specs)
}

func (g *fakeGroup) CreateSnapshots(_ context.Context, specs []volume.SnapshotSpec) (*manager.Result, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var r manager.Result
	for _, spec := range specs {
		c, err := g.vg.CreateSnapshot(spec, stamp())
		if err != nil {
			return nil, err
		}
		of := g.vols[spec.Origin]
		v := &fakeLV{of: of}
		if g.snapFile != nil {
			v.file = g.snapFile(spec.Origin)
			if v.dev, err = file.Open(v.file, file.Options{ReadOnly: true}); err != nil {
				return nil, err
			}
		} else {
			size := c.Group.LVSize(c.Group.LV(spec.Name)).Bytes()
			if v.store, err = snap.Open(mem.New(size), snap.Options{ChunkBytes: 4096}); err != nil {
				return nil, err
			}
			if v.dev, err = of.origin.Attach(v.store, of.dev.Size(), spec.ReadOnly); err != nil {
				return nil, err
			}
		}
		g.vg, g.vols[spec.Name] = c.Group, v
		r.Names = append(r.Names, spec.Name)
		r.Notes = append(r.Notes, c.Notes...)
	}
	if g.created != nil {
		if err := g.created(); err != nil {
			return nil, err
		}
	}
	return &r, nil
}

func (g *fakeGroup) RemoveLVs(ctx context.Context, names []string) (*manager.Result, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, name := range names {
		v := g.vols[name]
		if v == nil {
			return nil, errs.E(errs.NotFound, "no volume %s", name)
		}
		if g.remove != nil {
			if err := g.remove(name); err != nil {
				return nil, err
			}
		}
		if v.opens > 0 {
			return nil, errs.E(errs.Busy, "volume %s is open", name)
		}
		c, err := g.vg.RemoveLV(name)
		if err != nil {
			return nil, err
		}
		if v.store != nil {
			if err := v.dev.Close(); err != nil {
				return nil, err
			}
		}
		g.vg = c.Group
		delete(g.vols, name)
	}
	return &manager.Result{Names: names}, nil
}

func (g *fakeGroup) Open(ctx context.Context, name string, readOnly bool) (block.Device, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	v := g.vols[name]
	if v == nil {
		return nil, errs.E(errs.NotFound, "no volume %s", name)
	}
	v.opens++
	d := v.dev
	if g.wrap != nil {
		d = g.wrap(name, d)
	}
	return &handle{Device: d, close: func() { g.mu.Lock(); v.opens--; g.mu.Unlock() }}, nil
}

// snapshots names what snapshots there are.
func (g *fakeGroup) snapshots() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(g.vols)), func(n string) bool { return g.vols[n].of == nil })
}

// snapshot takes one, as a person would.
func (g *fakeGroup) snapshot(spec volume.SnapshotSpec) {
	g.t.Helper()
	if _, err := g.CreateSnapshots(context.Background(), []volume.SnapshotSpec{spec}); err != nil {
		g.t.Fatal(err)
	}
}

var errGone = errors.New("nobody answers")

var errFake = errors.New("the fake group does not do this")

func (g *fakeGroup) CreateLV(context.Context, volume.LVSpec) (*manager.Result, error) {
	return nil, errFake
}
func (g *fakeGroup) ExtendLV(context.Context, volume.ExtendSpec) (*manager.Result, error) {
	return nil, errFake
}
func (g *fakeGroup) SetReadOnly(context.Context, string, bool) (*manager.Result, error) {
	return nil, errFake
}

func (g *fakeGroup) ChangeTags(_ context.Context, name string, add, remove []string) (*manager.Result, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.retag != nil {
		if err := g.retag(name); err != nil {
			return nil, err
		}
	}
	c, err := g.vg.ChangeTags(name, add, remove)
	if err != nil {
		return nil, err
	}
	g.vg = c.Group
	return &manager.Result{Names: c.LVs}, nil
}

func (g *fakeGroup) Activate(context.Context, ...string) (*manager.Result, error) {
	return nil, errFake
}
func (g *fakeGroup) Deactivate(context.Context, ...string) (*manager.Result, error) {
	return nil, errFake
}
func (g *fakeGroup) Merge(context.Context, volume.MergeSpec) (*manager.Result, error) {
	return nil, errFake
}
func (g *fakeGroup) Writes(context.Context, string) (*forecast.Pattern, error) {
	return &forecast.Pattern{}, nil
}

// Changed is what the engine does.
func (g *fakeGroup) Changed(ctx context.Context, snapshot string) (*manager.Changes, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	v := g.vols[snapshot]
	if v == nil || v.store == nil {
		return nil, errs.E(errs.NotFound, "no snapshot %s", snapshot)
	}
	s, _ := g.vg.SnapshotOf(g.vg.LV(snapshot))
	c := manager.NewChanges(g.vg, s, v.dev.Size(), v.store.ChunkBytes())
	for r, err := range v.dev.(*snap.Snapshot).Changed() {
		if err == nil {
			err = c.Add(r.Off, r.Len)
		}
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (g *fakeGroup) AddPVs(context.Context, []string) (*manager.Result, error) { return nil, errFake }
func (g *fakeGroup) RemovePVs(context.Context, []string) (*manager.Result, error) {
	return nil, errFake
}
func (g *fakeGroup) ResizePV(context.Context, string, int64) (*manager.Result, error) {
	return nil, errFake
}
func (g *fakeGroup) RemoveGroup(context.Context) (*manager.Result, error) { return nil, errFake }
func (g *fakeGroup) Close() error                                         { return nil }

// handle is what Open returns: closing it ends one use.
type handle struct {
	block.Device
	close func()
}

func (h *handle) Close() error { h.close(); return nil }

// hooked is a device with something before every read and write, which may
// fail them.
type hooked struct {
	block.Device
	before func(op string, off int64) error
}

func (h *hooked) ReadAt(b []byte, off int64) (int, error) {
	if err := h.before("read", off); err != nil {
		return 0, err
	}
	return h.Device.ReadAt(b, off)
}

func (h *hooked) WriteAt(b []byte, off int64) (int, error) {
	if err := h.before("write", off); err != nil {
		return 0, err
	}
	return h.Device.WriteAt(b, off)
}

func (h *hooked) WriteZeroes(off, length int64) error {
	if err := h.before("zero", off); err != nil {
		return err
	}
	return h.Device.WriteZeroes(off, length)
}

func (h *hooked) Flush() error {
	if err := h.before("flush", 0); err != nil {
		return err
	}
	return h.Device.Flush()
}

func (h *hooked) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	if err := h.before("extents", off); err != nil {
		return block.NoExtents(err)
	}
	return h.Device.Extents(off, length)
}

// nth fails the n-th operation, counted from 1, and tells whether it came
// to that.
type nth struct {
	n     int64
	count atomic.Int64
	err   error
}

func (f *nth) hit(op string) error {
	if f.count.Add(1) == f.n {
		return fmt.Errorf("%s: %w", op, f.err)
	}
	return nil
}

func (f *nth) fired() bool { return f.count.Load() >= f.n }

// faultyFile is an image's file with a fault behind it.
type faultyFile struct {
	outputFile
	fault func(op string) error
}

func (f *faultyFile) WriteAt(b []byte, off int64) (int, error) {
	if err := f.fault("write"); err != nil {
		// As a full disk does: part of it is there.
		n, _ := f.outputFile.WriteAt(b[:len(b)/2], off)
		return n, err
	}
	return f.outputFile.WriteAt(b, off)
}

func (f *faultyFile) Truncate(size int64) error {
	if err := f.fault("truncate"); err != nil {
		return err
	}
	return f.outputFile.Truncate(size)
}

func (f *faultyFile) Sync() error {
	if err := f.fault("sync"); err != nil {
		return err
	}
	return f.outputFile.Sync()
}

func (f *faultyFile) Close() error {
	if err := f.fault("close"); err != nil {
		return errors.Join(err, f.outputFile.Close())
	}
	return f.outputFile.Close()
}
