package hostlvm

import (
	"context"
	"errors"
	"fmt"

	"cowl/internal/block/file"
	"cowl/internal/devmapper"
	"cowl/internal/errs"
	"cowl/internal/snap"
	"cowl/internal/volume"
)

// Changes says of which snapshot ranges are, and of what state of the group.
type Changes struct {
	Group *volume.Group // the metadata
	Snap  volume.Snap
	Bytes int64 // the snapshot's size
	Chunk int64 // bytes: the ranges consist of whole chunks
}

// Changed tells take of a snapshot, and then calls what it returned with the
// ranges in which the snapshot may differ from its origin, in ascending order:
// what the kernel keeps in the snapshot's store.
//
// The store is read below the kernel, by direct I/O. That disturbs nothing, and
// finds all that was written to the origin before the call: the kernel completes
// a write only after the exceptions that it needed are on the store's device.
// What it writes meanwhile may or may not be found. An area of exceptions that
// is being written has at its end what is not yet complete, and each entry lies
// within a sector.
func (g *Group) Changed(ctx context.Context, snapshot string, take func(*Changes) (add func(off, length int64) error)) error {
	model, lv, err := g.find(ctx, snapshot)
	if err != nil {
		return err
	}
	s, ok := model.SnapshotOf(lv)
	if !ok {
		return errs.E(errs.Usage, "Logical volume %s is not a snapshot.", g.full(snapshot))
	}
	if m, merging := model.MergingInto(s.Origin); merging {
		return errs.E(errs.Conflict, "snapshot %s is being merged into %s: what differs is not known until that is done", g.full(m.Cow.Name), g.full(s.Origin.Name))
	}
	running, err := Running(model)
	if err != nil {
		return err
	}
	if _, active := running[snapshot]; !active {
		if _, err := g.Activate(ctx, snapshot); err != nil {
			return err
		}
		defer g.Deactivate(context.WithoutCancel(ctx), snapshot)
	}
	if err := g.changed(ctx, model, s, take); err != nil {
		return fmt.Errorf("changes since %s: %w", g.full(snapshot), err)
	}
	return nil
}

// attempts is how often a store is read that seems damaged: reading an area ahead
// of the one before it, while the kernel begins it, shows what lay there before.
const attempts = 3

func (g *Group) changed(ctx context.Context, model *volume.Group, s volume.Snap, take func(*Changes) (add func(off, length int64) error)) error {
	dev, err := openLayer(g.uuid(s.Cow, devmapper.LayerCow), file.Options{ReadOnly: true, Direct: true})
	if err != nil {
		return err
	}
	defer dev.Close()
	var store *snap.Store
	for range attempts {
		if store, err = snap.Open(dev, snap.Options{ReadOnly: true, ChunkBytes: s.Segment.ChunkSize.Bytes()}); !errs.Is(err, errs.Corrupt) {
			break
		}
	}
	if err != nil {
		return err
	}
	c := &Changes{Group: model, Snap: s, Bytes: model.ExtentBytes(s.Size()), Chunk: store.ChunkBytes()}
	add := take(c)
	for r, err := range store.Excepted() {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil && r.Off < c.Bytes {
			err = add(r.Off, min(r.Len, c.Bytes-r.Off))
		}
		if err != nil {
			return err
		}
	}
	// The kernel says in its status, before it says so in the store, that it has
	// given a snapshot up.
	cow, err := g.usage(s.Cow)
	if err == nil && cow.Invalid {
		err = errs.E(errs.NoSpace, "the snapshot is lost: %s", cow.Reason)
	}
	return errors.Join(err, ctx.Err())
}
