package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"cowl/internal/snap"
	"cowl/internal/volume"
)

// zeroedBytes is how much of a new volume is zeroed, as lvcreate -Zy does: no
// file system or label that lay there before can be taken for its content.
const zeroedBytes = 4096

// CreateLV allocates a linear volume and zeroes its beginning. In a group that
// is active it is active at once.
func (g *Group) CreateLV(ctx context.Context, spec volume.LVSpec) (*Result, error) {
	if err := g.begin(ctx); err != nil {
		return nil, err
	}
	defer g.unlock()
	c, err := g.Model().CreateLV(spec, g.stamp())
	if err != nil {
		return nil, err
	}
	name := c.LVs[0]
	// Its extents are still free: nobody misses what they hold, and nobody
	// sees the volume before they are zeroed.
	data, err := g.newBase(c.Group, c.Group.LV(name))
	if err != nil {
		return nil, err
	}
	if err := data.WriteZeroes(0, min(zeroedBytes, data.Size())); err != nil {
		return nil, fmt.Errorf("zero %s/%s: %w", c.Group.Name, name, err)
	}
	if err := data.Flush(); err != nil {
		return nil, fmt.Errorf("zero %s/%s: %w", c.Group.Name, name, err)
	}
	if err := g.commit(c.Group); err != nil {
		return nil, err
	}
	res := g.warn(&Result{Names: c.LVs, Notes: c.Notes})
	if g.isActive() {
		_, err = g.activate(name, true)
	}
	return res, err
}

// isActive reports whether new volumes are activated, because the group as
// such or any volume of it is.
func (g *Group) isActive() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, f := range g.families {
		if f.held {
			return true
		}
	}
	return g.whole
}

// CreateSnapshots takes snapshots of several volumes at one instant. The
// order, which a crash may cut anywhere:
//
//  1. allocate the stores in a copy of the metadata;
//  2. format them on extents that are still free, and flush: whoever finds the
//     new metadata, cowl, lvm2 or the kernel, finds an empty store with it;
//  3. precommit;
//  4. suspend the origins: requests in flight finish, new ones wait. Here held is
//     called, if there is one: see CreateSnapshotsWhile;
//  5. attach the stores, so that nothing can fail behind the commit: this is
//     the instant. What is written from now on is copied out first, and waits
//     for the commit where a store must not overflow and has no room: only
//     then it can grow;
//  6. resume: the pause is over, and there was no I/O in it;
//  7. flush the origins: what was written before the instant is in the
//     snapshots, also after a crash;
//  8. commit: up to here a crash leaves no snapshot, from here on there is one.
//
// LVM2 commits the store as a plain volume first, because device-mapper can
// only zero what is active, and turns it into a snapshot with a second commit;
// a crash between the two leaves a volume that nobody asked for.
//
// If anything fails, the stores are detached again, and what was precommitted
// is taken back. If it was the commit, and the old metadata cannot
// be written again either, the disks may say that there are snapshots; then the
// stores stay attached, so that what they hold is true in either case, until
// another commit has decided it.
func (g *Group) CreateSnapshots(ctx context.Context, specs []volume.SnapshotSpec) (*Result, error) {
	return g.CreateSnapshotsWhile(ctx, specs, nil)
}

// CreateSnapshotsWhile is CreateSnapshots for an instant that others share: held
// is called when the origins are suspended, and they stay so until it returns.
// After an error of it there are no snapshots.
func (g *Group) CreateSnapshotsWhile(ctx context.Context, specs []volume.SnapshotSpec, held func(context.Context) error) (*Result, error) {
	if err := g.begin(ctx); err != nil {
		return nil, err
	}
	defer g.unlock()
	res := &Result{}
	next := g.Model()
	for _, spec := range specs { // 1
		c, err := next.CreateSnapshot(spec, g.stamp())
		if err != nil {
			return nil, err
		}
		next = c.Group
		res.Names = append(res.Names, c.LVs...)
		res.Notes = append(res.Notes, c.Notes...)
	}
	if len(specs) == 0 {
		if held != nil {
			return res, held(ctx)
		}
		return res, nil
	}
	births, err := g.formatStores(next, res.Names) // 2
	if err != nil {
		return nil, err
	}
	if err := g.commitSnapshots(ctx, next, births, held); err != nil {
		return nil, err
	}
	return g.warn(res), nil
}

// birth is a snapshot that is about to be.
type birth struct {
	name   string
	size   int64 // of the snapshot, bytes
	base   *base // of the store
	strict bool  // it must not overflow
	family *family
	vol    *vol // both nil if the origin is not active
}

func (g *Group) formatStores(next *volume.Group, names []string) ([]*birth, error) {
	var births []*birth
	for _, name := range names {
		b, err := g.formatStore(next, name)
		if err != nil {
			return nil, fmt.Errorf("snapshot %s/%s: %w", next.Name, name, err)
		}
		births = append(births, b)
	}
	return births, nil
}

func (g *Group) formatStore(next *volume.Group, name string) (*birth, error) {
	s, _ := next.SnapshotOf(next.LV(name))
	b := &birth{name: name, size: next.ExtentBytes(s.Size())}
	growth := s.Cow.GrowthOf(g.opts.Growth.Growth)
	b.strict = mustNotOverflow(growth)
	var err error
	if b.base, err = g.newBase(next, s.Cow); err != nil {
		return nil, err
	}
	if err := snap.Format(b.base, s.Segment.ChunkSize.Bytes()); err != nil {
		return nil, err
	}
	g.mu.Lock()
	b.family = g.families[s.Origin.Name]
	g.mu.Unlock()
	if b.family != nil {
		if b.vol, err = g.openStore(b.base, s); err != nil {
			return nil, err
		}
		b.vol.family, b.vol.supply.Growth = b.family, growth
		err = g.preallocate(b.vol, 0)
	}
	return b, err
}

// commitSnapshots is steps 3 to 8 of CreateSnapshots.
func (g *Group) commitSnapshots(ctx context.Context, next *volume.Group, births []*birth, held func(context.Context) error) error {
	if err := g.store.Precommit(next); err != nil { // 3
		return err
	}
	families := familiesOf(births)
	for _, f := range families { // while they are in use: little is left to wait for
		f.origin.Settle()
	}
	err := attachAll(ctx, families, births, held)
	g.simulateUse()
	for _, f := range families {
		if err == nil {
			err = f.origin.Flush() // 7
		}
	}
	g.simulateUse()
	if err != nil {
		detach(births)
		return errors.Join(err, g.store.Revert())
	}
	err = g.commitStaged(func() { // 8
		for _, b := range births {
			if b.vol != nil {
				b.family.snaps = append(b.family.snaps, b.vol)
				g.volumes[b.name] = b.vol
			}
		}
	})
	switch {
	case err == nil:
		for _, b := range births {
			if b.vol != nil {
				g.supplied(next, b.vol)
			}
		}
	case g.undecided:
		for _, b := range births {
			b.overflow() // it cannot grow while nobody knows whether it is
		}
		g.limbo = append(g.limbo, births...)
	default:
		detach(births)
	}
	return err
}

// simulateUse lets a simulation do what users do meanwhile.
func (g *Group) simulateUse() {
	if g.opts.born != nil {
		g.opts.born()
	}
}

// attachAll is steps 4 to 6.
func attachAll(ctx context.Context, families []*family, births []*birth, held func(context.Context) error) error {
	for _, f := range families {
		f.top.suspend()
		defer f.top.resume()
	}
	if held != nil {
		if err := held(ctx); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil { // the last chance to leave
		return err
	}
	for _, b := range births {
		if err := b.attach(); err != nil {
			return err
		}
	}
	return nil
}

// familiesOf returns the active families that get snapshots, each once.
func familiesOf(births []*birth) []*family {
	var out []*family
	for _, b := range births {
		if b.family != nil && !slices.Contains(out, b.family) {
			out = append(out, b.family)
		}
	}
	return out
}

func (b *birth) attach() error {
	if b.vol == nil {
		return nil
	}
	if err := b.family.attach(b.vol, b.size); err != nil {
		return fmt.Errorf("attach snapshot %s: %w", b.name, err)
	}
	b.vol.snap.Reserve(b.strict)
	return nil
}

// overflow lets a snapshot overflow where it must not otherwise.
func (b *birth) overflow() {
	if b.vol != nil && b.vol.snap != nil {
		b.vol.snap.Reserve(false)
	}
}

func detach(births []*birth) {
	for _, b := range births {
		b.detach()
	}
}

func (b *birth) detach() {
	if b.vol != nil && b.vol.snap != nil {
		b.family.origin.Detach(b.vol.snap)
	}
}
