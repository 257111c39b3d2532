package repo

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/kopia/kopia/repo/blob"

	"cowl/internal/errs"
)

// LockMode is what a lock keeps others from.
type LockMode string

// The modes. Any number of Shared ones stand beside each other and beside one
// Maintain; Exclusive stands alone.
const (
	Shared    LockMode = "shared"    // something is stored or read
	Maintain  LockMode = "maintain"  // maintenance that leaves alone what is recent
	Exclusive LockMode = "exclusive" // maintenance that frees space at once
)

func (m LockMode) conflicts(o LockMode) bool {
	return m == Exclusive || o == Exclusive || m == Maintain && o == Maintain
}

const (
	lockPrefix  = "cowl.lock-"
	lockFormat  = "cowl repository lock"
	lockVersion = 1
	maxLock     = 64 << 10
	// A lock is renewed each lockRenew. One that was not for lockStale is that of
	// a process that is gone: whoever holds one that it could not renew for so
	// long gives up by itself.
	lockRenew = 2 * time.Minute
	lockStale = 30 * time.Minute
	// How often a shared lock is tried, and the time between two tries.
	lockTries = 10
	lockPause = 200 * time.Millisecond
)

// LockInfo is what a lock says of its owner.
type LockInfo struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	ID      string    `json:"id"`
	Mode    LockMode  `json:"mode"`
	Purpose string    `json:"purpose"` // "backup of vg/lv"
	Base    string    `json:"base,omitempty"`
	Host    string    `json:"host"`
	User    string    `json:"user"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`

	// Stale says why nobody holds the lock any more, "" if somebody does.
	Stale   string    `json:"stale,omitempty"`
	Renewed time.Time `json:"renewed"` // by the store's clock
}

// String describes a lock's owner.
func (l *LockInfo) String() string {
	return fmt.Sprintf("%s by process %d of %s on %s, since %s", l.Purpose, l.PID, l.User, l.Host, l.Started.Local().Format("2006-01-02 15:04:05"))
}

// Lock is a lock that this process holds.
type Lock struct {
	r      *Repo
	info   LockInfo
	cancel context.CancelCauseFunc
	ended  chan struct{}
	once   sync.Once

	mu      sync.Mutex
	renewed time.Time // guarded by mu
}

// Lock takes a lock, and returns a context that ends if the lock is lost.
// Locks of processes that are gone are removed; if another stands in the way
// the error is of kind errs.Busy and names its owner. base is a backup that
// must not be deleted meanwhile, "" if none.
func (r *Repo) Lock(ctx context.Context, mode LockMode, purpose, base string) (context.Context, *Lock, error) {
	client := r.rep.ClientOptions()
	l := &Lock{r: r, ended: make(chan struct{}), info: LockInfo{
		Format: lockFormat, Version: lockVersion, ID: strings.ToLower(rand.Text()[:16]), Mode: mode, Purpose: purpose, Base: base,
		Host: client.Hostname, User: client.Username, PID: os.Getpid(), Started: time.Now().UTC(),
	}}
	// First ours is there, then others are looked for: of two that come at the
	// same time at least one sees the other.
	if err := l.renew(ctx); err != nil {
		return nil, nil, err
	}
	err := l.checkOthers(ctx)
	// Who wants it all and cannot have it lets go at once.
	for n := 0; mode == Shared && errs.Is(err, errs.Busy) && n < lockTries; n++ {
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			err = context.Cause(ctx)
			continue
		}
		err = l.checkOthers(ctx)
	}
	if err != nil {
		return nil, nil, errors.Join(err, l.drop(ctx))
	}
	ctx, l.cancel = context.WithCancelCause(ctx)
	go l.keep(ctx)
	return ctx, l, nil
}

func (l *Lock) blobID() blob.ID { return blob.ID(lockPrefix + l.info.ID) }

// renew writes the lock.
func (l *Lock) renew(ctx context.Context) error {
	text, err := json.Marshal(&l.info)
	if err != nil {
		return err
	}
	if err := l.r.store.PutBlob(ctx, l.blobID(), plain(text), blob.PutOptions{}); err != nil {
		return fmt.Errorf("lock %s: %w", l.r.Name(), explain(ctx, err))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renewed = time.Now()
	return nil
}

func (l *Lock) age() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.renewed)
}

// checkOthers removes stale locks, and refuses to stand beside one that
// conflicts.
func (l *Lock) checkOthers(ctx context.Context) error {
	all, err := l.r.locks(ctx, time.Time{}) // the latest is ours, a moment ago by the store's clock
	if err != nil {
		return err
	}
	for _, o := range all {
		switch {
		case o.ID == l.info.ID:
		case o.Stale != "":
			if err := l.r.removeLock(ctx, o); err != nil {
				return err
			}
		case l.info.Mode.conflicts(o.Mode):
			return errs.WithHint(errs.E(errs.Busy, "%s is in use: %s", l.r.Name(), o),
				"Wait for it to end. If that process is gone, clear its lock: cowl repo unlock %s", l.r.Name())
		}
	}
	return nil
}

// keep renews the lock until the context ends.
func (l *Lock) keep(ctx context.Context) {
	defer close(l.ended)
	tick := time.NewTicker(lockRenew)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// Before it is written anew: was it taken away meanwhile?
		err := l.Check(ctx)
		if err == nil {
			err = l.renew(ctx)
		}
		if err != nil && (errs.Is(err, errs.Conflict) || l.age() > lockStale) {
			l.cancel(err)
			return
		}
	}
}

// Check returns errs.Conflict if the lock is no longer held: somebody removed
// it, or it could not be renewed in time.
func (l *Lock) Check(ctx context.Context) error {
	_, err := l.r.store.GetMetadata(ctx, l.blobID())
	switch {
	case isMissing(err):
		return errs.E(errs.Conflict, "the lock on %s was removed meanwhile", l.r.Name())
	case l.age() > lockStale:
		return errs.E(errs.Conflict, "the lock on %s could not be renewed for %v", l.r.Name(), l.age().Round(time.Second))
	}
	return explain(ctx, err)
}

// Release gives the lock back, also when ctx was cancelled.
func (l *Lock) Release(ctx context.Context) (err error) {
	l.once.Do(func() {
		l.cancel(context.Canceled)
		<-l.ended
		err = l.drop(ctx)
	})
	return err
}

// dropTime bounds how long is tried to remove a lock.
const dropTime = 30 * time.Second

func (l *Lock) drop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropTime)
	defer cancel()
	return l.r.removeLock(ctx, &l.info)
}

func (r *Repo) removeLock(ctx context.Context, l *LockInfo) error {
	if err := r.store.DeleteBlob(ctx, blob.ID(lockPrefix+l.ID)); err != nil && !isMissing(err) {
		return fmt.Errorf("unlock %s: %w", r.Name(), explain(ctx, err))
	}
	return nil
}

// Locks returns all locks on the repository, and says which are stale.
func (r *Repo) Locks(ctx context.Context) ([]*LockInfo, error) { return r.locks(ctx, time.Now()) }

// locks returns all locks. It is now at least as late as the latest of them.
func (r *Repo) locks(ctx context.Context, now time.Time) ([]*LockInfo, error) {
	var found []blob.Metadata
	err := r.store.ListBlobs(ctx, lockPrefix, func(m blob.Metadata) error {
		found = append(found, m)
		return nil
	})
	if err != nil {
		return nil, explain(ctx, err)
	}
	for _, m := range found {
		if m.Timestamp.After(now) {
			now = m.Timestamp
		}
	}
	host := r.rep.ClientOptions().Hostname
	var out []*LockInfo
	for _, m := range found {
		text, err := r.getBlob(ctx, m.BlobID, maxLock)
		if isMissing(err) {
			continue // given back since
		}
		if err != nil {
			return nil, err
		}
		l := &LockInfo{}
		if err := json.Unmarshal(text, l); err != nil || l.Format != lockFormat {
			l = &LockInfo{Mode: Exclusive, Purpose: "something that cannot be read"}
		}
		l.ID = strings.TrimPrefix(string(m.BlobID), lockPrefix)
		l.Renewed = m.Timestamp
		l.Stale = l.stale(host, now)
		out = append(out, l)
	}
	return out, nil
}

// stale says why nobody holds the lock any more.
func (l *LockInfo) stale(host string, now time.Time) string {
	switch {
	case l.Host == host && l.PID > 0 && !alive(l.PID):
		return fmt.Sprintf("process %d has ended", l.PID)
	case now.Sub(l.Renewed) > lockStale:
		return fmt.Sprintf("not renewed since %s", l.Renewed.Local().Format("2006-01-02 15:04:05"))
	}
	return ""
}

// Unlock removes stale locks, or all of them, and returns what it removed.
func (r *Repo) Unlock(ctx context.Context, all bool) ([]*LockInfo, error) {
	locks, err := r.Locks(ctx)
	if err != nil {
		return nil, err
	}
	var removed []*LockInfo
	for _, l := range locks {
		if !all && l.Stale == "" {
			continue
		}
		if err := r.removeLock(ctx, l); err != nil {
			return removed, err
		}
		removed = append(removed, l)
	}
	return removed, nil
}
