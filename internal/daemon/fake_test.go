package daemon

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/forecast"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// fake is a manager.Group without disks: what a daemon is given, for what the
// engine cannot be made to do on demand. It writes down what is asked of it.
type fake struct {
	mu     sync.Mutex
	model  *volume.Group
	active map[string]bool
	opens  map[string]int
	data   map[string]*mem.Device
	calls  []string
	closed bool

	// Hooks, where a test wants something else to happen.
	onCreateLV   func(context.Context) (*manager.Result, error)
	onActivate   func() (*manager.Result, error)
	onDeactivate func()
	onClose      func() error
	onWrite      func()
}

var _ manager.Group = (*fake)(nil)

// newFake returns a group vg with the volumes a and b, none active.
func newFake(t testing.TB) *fake {
	t.Helper()
	next := byte(0)
	stamp := volume.Stamp{Time: 1700000000, Host: "host", NewID: func() volume.UUID {
		next++
		return volume.UUIDFrom([32]byte(bytes.Repeat([]byte{next}, 32)))
	}}
	g, err := volume.NewGroup(volume.GroupSpec{Name: "vg", PVs: []volume.PVSpec{
		{ID: stamp.NewID(), Device: "/dev/one", DevSize: 1 << 20, PEStart: 2048},
	}}, stamp)
	if err != nil {
		t.Fatal(err)
	}
	g.Seqno = 7 // as if it had been written
	f := &fake{model: g, active: map[string]bool{}, opens: map[string]int{}, data: map[string]*mem.Device{}}
	for _, name := range []string{"a", "b"} {
		c, err := f.model.CreateLV(volume.LVSpec{Name: name, Size: volume.Size{Extents: 1}}, stamp)
		if err != nil {
			t.Fatal(err)
		}
		f.model = c.Group
		f.data[name] = mem.New(c.Group.ExtentBytes(1))
	}
	return f
}

func (f *fake) note(format string, args ...any) {
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

// asked returns what was asked so far.
func (f *fake) asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

func (f *fake) Status(context.Context) (*manager.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	st := &manager.Status{Group: f.model, LVs: map[string]manager.LVStatus{}, PVs: []manager.PVStatus{{
		Path: "/dev/one", Size: 1 << 29, MDAs: []manager.MDAStatus{{Offset: 4096, Size: 1 << 20, TextSize: 77, Damaged: "a little"}},
	}}}
	soon := time.Minute
	for name := range f.active {
		st.LVs[name] = manager.LVStatus{Opens: f.opens[name], Cow: &manager.CowStatus{Allocated: 16, Total: 800, Metadata: 16, Reason: "none", FullIn: &soon}}
	}
	return st, nil
}

func (f *fake) CreateLV(ctx context.Context, spec volume.LVSpec) (*manager.Result, error) {
	f.mu.Lock()
	hook := f.onCreateLV
	f.note("create %+v", spec)
	f.mu.Unlock()
	if hook != nil {
		return hook(ctx)
	}
	return &manager.Result{Names: []string{spec.Name}, Notes: []string{"Rounding up."}}, nil
}

func (f *fake) CreateSnapshots(_ context.Context, specs []volume.SnapshotSpec) (*manager.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("snapshot %+v", specs)
	return &manager.Result{}, nil
}

func (f *fake) CreateSnapshotsWhile(ctx context.Context, specs []volume.SnapshotSpec, limit time.Duration, held func(context.Context) error) (*manager.Result, error) {
	f.mu.Lock()
	f.note("hold %v", limit)
	f.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errs.E(errs.Conflict, "held for too long"))
	defer cancel()
	err := held(ctx)
	f.mu.Lock()
	f.note("held")
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return f.CreateSnapshots(ctx, specs)
}

func (f *fake) RemoveLVs(_ context.Context, names []string) (*manager.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("remove %q", names)
	for _, n := range names {
		delete(f.active, n)
	}
	return &manager.Result{Names: names}, nil
}

func (f *fake) ExtendLV(_ context.Context, spec volume.ExtendSpec) (*manager.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("extend %+v", spec)
	return &manager.Result{Names: []string{spec.Name}}, nil
}

func (f *fake) SetReadOnly(_ context.Context, name string, ro bool) (*manager.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("read-only %s %v", name, ro)
	return &manager.Result{Names: []string{name}}, nil
}

func (f *fake) ChangeTags(_ context.Context, name string, add, remove []string) (*manager.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("tags %s %q %q", name, add, remove)
	return &manager.Result{Names: []string{name}}, nil
}

func (f *fake) Activate(_ context.Context, names ...string) (*manager.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("activate %q", names)
	if f.onActivate != nil {
		return f.onActivate()
	}
	if len(names) == 0 {
		names = []string{"a", "b"}
	}
	for _, n := range names {
		f.active[n] = true
	}
	return &manager.Result{Names: names}, nil
}

func (f *fake) Deactivate(_ context.Context, names ...string) (*manager.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("deactivate %q", names)
	if f.onDeactivate != nil {
		f.onDeactivate()
	}
	if len(names) == 0 {
		names = []string{"a", "b"}
	}
	for _, n := range names {
		if f.opens[n] > 0 {
			return &manager.Result{}, errs.E(errs.Busy, "Logical volume vg/%s in use.", n)
		}
	}
	for _, n := range names {
		delete(f.active, n)
	}
	return &manager.Result{Names: names}, nil
}

func (f *fake) Merge(_ context.Context, spec volume.MergeSpec) (*manager.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("merge %s", spec.Name)
	if spec.Rate != nil {
		f.note("merge %s at %d", spec.Name, *spec.Rate)
	}
	return &manager.Result{Notes: []string{"Merging of volume vg/" + spec.Name + " started."}}, nil
}

func (f *fake) Writes(_ context.Context, name string) (*forecast.Pattern, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("writes %s", name)
	if f.data[name] == nil {
		return nil, errs.E(errs.NotFound, "Failed to find logical volume \"vg/%s\"", name)
	}
	var r forecast.Recorder
	r.Touch(0, 1<<20)
	r.Step()
	return r.Pattern(), nil
}

func (f *fake) Changed(_ context.Context, snapshot string) (*manager.Changes, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("changed %s", snapshot)
	if f.data[snapshot] == nil {
		return nil, errs.E(errs.NotFound, "Failed to find logical volume \"vg/%s\"", snapshot)
	}
	c := &manager.Changes{VG: "vg", Snapshot: snapshot, Time: time.Unix(1700000000, 0).UTC(), Bytes: 1 << 40, Chunk: 4096}
	for off := int64(8192); off < c.Bytes; off = off*2 + 4096 {
		if err := c.Add(off, 4096); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (f *fake) AddPVs(_ context.Context, paths []string) (*manager.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("add %q", paths)
	return &manager.Result{}, nil
}

func (f *fake) RemovePVs(_ context.Context, paths []string) (*manager.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("reduce %q", paths)
	return &manager.Result{}, nil
}

func (f *fake) ResizePV(_ context.Context, path string, size int64) (*manager.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("resize %q %d", path, size)
	return &manager.Result{}, nil
}

func (f *fake) RemoveGroup(context.Context) (*manager.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("remove group")
	return &manager.Result{}, nil
}

func (f *fake) Open(_ context.Context, name string, readOnly bool) (block.Device, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.data[name]
	if d == nil {
		return nil, errs.E(errs.NotFound, "Failed to find logical volume \"vg/%s\"", name)
	}
	f.opens[name]++
	return &fakeDevice{Device: d, f: f, name: name}, nil
}

func (f *fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("close")
	f.closed = true
	if f.onClose != nil {
		return f.onClose()
	}
	return nil
}

// fakeDevice is one opening of a volume.
type fakeDevice struct {
	*mem.Device
	f    *fake
	name string
}

func (d *fakeDevice) WriteAt(p []byte, off int64) (int, error) {
	if d.f.onWrite != nil {
		d.f.onWrite()
	}
	return d.Device.WriteAt(p, off)
}

func (d *fakeDevice) Close() error {
	d.f.mu.Lock()
	defer d.f.mu.Unlock()
	d.f.opens[d.name]--
	return nil
}

// until waits for a condition that has no channel of its own.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}
