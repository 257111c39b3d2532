package engine

import (
	"context"
	"fmt"

	"cowl/internal/errs"
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
// ranges in which the snapshot may differ from its origin, in ascending order;
// neighbours may be told apart. They have all that was written before the call,
// acknowledged writes included: see snap.Snapshot.Changed.
//
// It fails for a snapshot that is invalid, or becomes so meanwhile: then what
// was told is not all.
func (g *Group) Changed(ctx context.Context, snapshot string, take func(*Changes) (add func(off, length int64) error)) error {
	model := g.Model()
	lv, err := model.FindLV(snapshot)
	if err != nil {
		return err
	}
	if _, ok := model.SnapshotOf(lv); !ok {
		return errs.E(errs.Usage, "Logical volume %s/%s is not a snapshot.", model.Name, snapshot)
	}
	dev, err := g.Open(ctx, snapshot, true)
	if err != nil {
		return err
	}
	defer dev.Close()
	return g.changed(ctx, dev.(*handle).vol, take)
}

// changed is Changed of an open snapshot, which is therefore neither removed
// nor merged meanwhile.
func (g *Group) changed(ctx context.Context, v *vol, take func(*Changes) (add func(off, length int64) error)) error {
	c := &Changes{Group: g.Model(), Chunk: v.store.ChunkBytes()}
	var ok bool
	if c.Snap, ok = c.Group.SnapshotOf(c.Group.LV(v.name)); !ok || v.snap == nil {
		return errs.E(errs.Conflict, "Logical volume %s/%s is not a snapshot any more.", g.name, v.name)
	}
	c.Bytes = v.snap.Size()
	add := take(c)
	for r, err := range v.snap.Changed() {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = add(r.Off, r.Len)
		}
		if err != nil {
			return fmt.Errorf("changes since %s/%s: %w", g.name, v.name, err)
		}
	}
	return nil
}
