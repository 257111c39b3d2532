package repo

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	kopia "github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/content/indexblob"
	"github.com/kopia/kopia/repo/maintenance"
	"github.com/kopia/kopia/snapshot"
	"github.com/kopia/kopia/snapshot/snapshotgc"

	"cowl/internal/errs"
)

// Maintenance is what Maintain did. Bytes are of all blobs.
type Maintenance struct {
	Before int64 `json:"bytes_before"`
	After  int64 `json:"bytes_after"`
	// Users are what else had the repository open: then what is recent was left
	// alone, and what nobody refers to is freed by a later run, a day from now.
	Users []string `json:"users,omitempty"`
}

// Maintain frees what no backup refers to, and merges indexes. With the
// repository for itself it does so at once. Beside a running backup it goes
// by kopia's rules for that: nothing younger than a day is touched, and what
// is to go has been found unused twice, hours apart.
//
// The stock kopia does not know cowl's locks: no kopia may write to the
// repository meanwhile.
func (r *Repo) Maintain(ctx context.Context) (*Maintenance, error) {
	m := &Maintenance{}
	safety := maintenance.SafetyNone
	locked, lock, err := r.Lock(ctx, Exclusive, "maintenance", "")
	if errs.Is(err, errs.Busy) {
		safety = maintenance.SafetyFull
		if locked, lock, err = r.Lock(ctx, Maintain, "maintenance", ""); err == nil {
			m.Users, err = r.others(ctx, lock)
		}
	}
	if err != nil {
		return nil, err
	}
	err = r.maintain(locked, safety, m)
	return m, errors.Join(err, lock.Release(ctx))
}

// others describes who else holds a lock.
func (r *Repo) others(ctx context.Context, own *Lock) ([]string, error) {
	all, err := r.Locks(ctx)
	var out []string
	for _, l := range all {
		if l.ID != own.info.ID {
			out = append(out, l.String())
		}
	}
	return out, err
}

func (r *Repo) maintain(ctx context.Context, safety maintenance.SafetyParameters, m *Maintenance) (err error) {
	if _, m.Before, err = r.Size(ctx); err != nil {
		return err
	}
	// kopia passes over manifests that it cannot read, and would then take what
	// they refer to for unused.
	if err := r.checkManifests(ctx); err != nil {
		return err
	}
	dir, remove, err := passing()
	if err != nil {
		return err
	}
	defer remove()
	err = r.write(ctx, "maintenance", func(ctx context.Context, w kopia.DirectRepositoryWriter) error {
		w = configured{w, filepath.Join(dir, "config.json")}
		return maintenance.RunExclusive(ctx, w, maintenance.ModeFull, true, func(ctx context.Context, p maintenance.RunParameters) error {
			remove() // kopia's lock has served: it is held, and ours is what others heed
			if err := snapshotgc.Run(ctx, w, true, safety, p.MaintenanceStartTime); err != nil {
				return err
			}
			if !safety.RequireTwoGCCycles {
				if err := r.dropUnused(ctx, w); err != nil {
					return err
				}
			}
			return maintenance.Run(ctx, p, safety)
		})
	})
	if err != nil {
		return fmt.Errorf("maintenance of %s: %w", r.Name(), err)
	}
	if err := r.compactSums(ctx); err != nil {
		return err
	}
	_, m.After, err = r.Size(ctx)
	return err
}

// configured is a repository whose configuration is said to be elsewhere.
// Beside it kopia's maintenance puts a lock against itself, and does nothing
// where another has that.
type configured struct {
	kopia.DirectRepositoryWriter
	file string
}

// ConfigFilename implements kopia.DirectRepository.
func (c configured) ConfigFilename() string { return c.file }

// dropUnused forgets contents that were just marked as unused. kopia's own run
// does it after it has moved them, among others, out of packs that are not
// full; then it takes another run to free them.
func (r *Repo) dropUnused(ctx context.Context, w kopia.DirectRepositoryWriter) error {
	// kopia counts in seconds, and drops what was marked before this one.
	if err := nextSecond(ctx); err != nil {
		return err
	}
	_, err := w.ContentManager().CompactIndexes(ctx, indexblob.CompactOptions{
		AllIndexes: true, DropDeletedBefore: r.rep.Time(), DisableEventualConsistencySafety: true,
	})
	return err
}

// nextSecond waits until the clock shows the next second.
func nextSecond(ctx context.Context) error {
	now := time.Now()
	select {
	case <-time.After(now.Truncate(time.Second).Add(time.Second).Sub(now)):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// checkManifests reads every manifest, kopia's own backups' too.
func (r *Repo) checkManifests(ctx context.Context) error {
	ids, err := snapshot.ListSnapshotManifests(ctx, r.rep, nil, nil)
	if err != nil {
		return r.damage(ctx, err)
	}
	for _, id := range ids {
		if _, err := snapshot.LoadSnapshot(ctx, r.rep, id); err != nil {
			return fmt.Errorf("manifest %s: %w", id, r.damage(ctx, err))
		}
	}
	return nil
}

// Size counts the blobs, and adds up what they have.
func (r *Repo) Size(ctx context.Context) (blobs int, bytes int64, err error) {
	err = r.store.ListBlobs(ctx, "", func(m blob.Metadata) error {
		blobs++
		bytes += m.Length
		return nil
	})
	return blobs, bytes, explain(ctx, err)
}
