package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/forecast"
	"cowl/internal/metastore"
	"cowl/internal/volume"
)

// Options are what the engine needs of the world. The zero value uses the real
// clock and random numbers, and logs nothing.
type Options struct {
	Now    func() time.Time
	Random io.Reader // for UUIDs
	Host   string    // for creation_host
	Log    *slog.Logger

	Growth Growth // of snapshots

	// Manual is snap.OriginOptions.Manual, and leaves it to look to extend stores and to
	// endSlot to watch.
	Manual bool

	// Known is what earlier processes learnt of how volumes are written to, by
	// LV. Learned is told what is known now and then and when the group is
	// closed, with no lock held; what is in the map is Learned's from then on.
	Known   map[volume.UUID]*forecast.Pattern
	Learned func(map[volume.UUID]*forecast.Pattern)

	stepped bool   // merges go on only by Group.step: for simulations
	born    func() // is called when new snapshots are attached, and before they are committed: likewise
}

// Group is a volume group that this process owns. Its methods may be called in
// parallel.
type Group struct {
	name  string
	store *metastore.Store
	opts  Options

	// Of the goroutine that extends stores, which ends with life.
	low     chan struct{} // holds one if it has to look
	life    context.Context
	end     context.CancelFunc
	tending sync.WaitGroup

	// changes is a lock that can be waited for with a context: who has put
	// something in holds it.
	changes chan struct{}
	devs    map[volume.UUID]block.Device // by PV; guarded by changes
	limbo   []*birth                     // snapshots that undecided metadata may name; guarded by changes

	watch watcher

	mu       sync.Mutex
	model    *volume.Group      // as committed; replaced, never altered
	families map[string]*family // by the origin's name
	volumes  map[string]*vol    // by name, those of all families
	whole    bool               // the group as such is active: new volumes are too
	closed   bool
	tends    bool          // the goroutine was started
	moved    chan struct{} // closed when the metadata changes next

	// undecided says that a commit failed so that the disks may hold either
	// metadata. The next one that succeeds decides it.
	undecided bool
}

// Result is what a change has to say.
type Result struct {
	Names []string // of what was created or changed, in order
	Notes []string // LVM's remarks
}

// Open returns the group whose metadata the store holds, with no volume
// active. devs are the devices of its PVs; a volume on a PV that is missing
// cannot be activated. Store and devices stay the caller's, and must live
// until Close has returned.
func Open(store *metastore.Store, devs map[volume.UUID]block.Device, o Options) (*Group, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	model := store.Group()
	if err := volume.Validate(model); err != nil {
		return nil, fmt.Errorf("volume group %s: %w", model.Name, err)
	}
	if err := settle(model.Name, devs); err != nil {
		return nil, err
	}
	life, end := context.WithCancel(context.Background())
	g := &Group{
		name: model.Name, store: store, opts: o, model: model,
		low: make(chan struct{}, 1), life: life, end: end,
		changes:  make(chan struct{}, 1),
		moved:    make(chan struct{}),
		devs:     maps.Clone(devs),
		families: make(map[string]*family),
		volumes:  make(map[string]*vol),
	}
	g.watch.remember(o.Known)
	g.placeMetadata()
	return g, nil
}

// settle makes the metadata that was read durable: whoever wrote it may have been
// killed before, and a power cut could bring back a snapshot that was removed,
// and that knows nothing of what was written since.
func settle(group string, devs map[volume.UUID]block.Device) error {
	for id, dev := range devs {
		if dev.Caps().ReadOnly {
			continue
		}
		if err := dev.Flush(); err != nil {
			return fmt.Errorf("flush physical volume %s of volume group %s: %w", id, group, err)
		}
	}
	return nil
}

// lock takes the right to change the group.
func (g *Group) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case g.changes <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if g.isClosed() {
		g.unlock()
		return errs.E(errs.Conflict, "volume group %s is closed", g.Model().Name)
	}
	return nil
}

func (g *Group) unlock() { <-g.changes }

// begin takes the right to change the group's metadata, of which the disks
// hold one version.
func (g *Group) begin(ctx context.Context) error {
	if err := g.lock(ctx); err != nil {
		return err
	}
	err := g.decide()
	if err != nil {
		g.unlock()
	}
	return err
}

func (g *Group) isClosed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

// familyList returns the active families in order of name. The caller holds mu.
func (g *Group) familyList() []*family {
	var list []*family
	for _, name := range slices.Sorted(maps.Keys(g.families)) {
		list = append(list, g.families[name])
	}
	return list
}

// Model returns the committed metadata, which nobody may alter.
func (g *Group) Model() *volume.Group {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.model
}

// stamp is what the model's operations need of the world.
func (g *Group) stamp() volume.Stamp {
	return volume.Stamp{NewID: g.newID, Time: g.opts.Now().Unix(), Host: g.opts.Host}
}

func (g *Group) newID() volume.UUID {
	var b [32]byte
	if _, err := io.ReadFull(g.opts.Random, b[:]); err != nil {
		panic(fmt.Sprintf("engine: no random numbers: %v", err)) // crypto/rand never fails
	}
	return volume.UUIDFrom(b)
}

// Close stops merges between two steps, flushes and deactivates everything.
// Devices that are still open fail from then on. It reports what could not be
// flushed.
func (g *Group) Close() error {
	if err := g.lock(context.Background()); err != nil {
		return nil // a second Close
	}
	err := g.close()
	g.unlock()
	g.tell()
	return err
}

// close is Close with changes held.
func (g *Group) close() error {
	g.stopWatching()
	g.setClosed()
	g.mu.Lock()
	families := g.familyList()
	g.families, g.volumes = map[string]*family{}, map[string]*vol{}
	g.mu.Unlock()
	var problems []error
	for _, f := range families {
		f.stopMerge()
		problems = append(problems, f.tearDown())
	}
	return errors.Join(problems...)
}

// setClosed ends what waits for changes of the group, and what makes some by
// itself. The caller holds changes.
func (g *Group) setClosed() {
	g.mu.Lock()
	g.closed = true
	g.hasMoved()
	g.mu.Unlock()
	g.end()
	g.tending.Wait()
}
