package daemon

import (
	"context"
	"sync"
	"time"

	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// The groups of several daemons share an instant by being held one inside
// another, see manager.Together: a client has one daemon hold its origins, talks
// to the next, and then lets the first go on. If the client dies its request ends,
// and if it hangs the limit is over: either way the writers go on, and there are
// no snapshots.

// maxHold bounds the limit that a client may ask for.
const maxHold = 5 * time.Minute

// holds are the holds of a daemon's group, by what their clients call them. The
// zero value has none.
type holds struct {
	mu  sync.Mutex
	all map[string]*hold
}

// hold is one that a request refers to, which may come before the one that it is
// of.
type hold struct {
	users int           // requests, guarded by holds.mu
	held  chan struct{} // closed when the origins are held
	once  sync.Once
	goOn  chan bool // whether there are to be snapshots; has room for one
}

// get returns the hold of that name, for a request that calls put in the end.
func (h *holds) get(id string) *hold {
	h.mu.Lock()
	defer h.mu.Unlock()
	one := h.all[id]
	if one == nil {
		if h.all == nil {
			h.all = map[string]*hold{}
		}
		one = &hold{held: make(chan struct{}), goOn: make(chan bool, 1)}
		h.all[id] = one
	}
	one.users++
	return one
}

func (h *holds) put(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if one := h.all[id]; one != nil {
		if one.users--; one.users == 0 {
			delete(h.all, id)
		}
	}
}

// create takes snapshots when the client lets go.
func (h *holds) create(ctx context.Context, g manager.Group, specs []volume.SnapshotSpec, r holdRequest) (*manager.Result, error) {
	if r.ID == "" || r.Limit <= 0 || r.Limit > maxHold {
		return nil, errs.E(errs.Usage, "hold %q for %v: a hold has a name, and at most %v", r.ID, r.Limit, maxHold)
	}
	one := h.get(r.ID)
	defer h.put(r.ID)
	return g.CreateSnapshotsWhile(ctx, specs, r.Limit, func(ctx context.Context) error {
		one.once.Do(func() { close(one.held) })
		select {
		case ok := <-one.goOn:
			if !ok {
				return errs.E(errs.Conflict, "the other groups of the instant have no snapshots")
			}
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
}

// wait waits until the origins are held.
func (h *holds) wait(ctx context.Context, id string) error {
	one := h.get(id)
	defer h.put(id)
	select {
	case <-one.held:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// letGo ends a hold.
func (h *holds) letGo(r holdRequest) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	one := h.all[r.ID]
	if one == nil {
		return errs.E(errs.NotFound, "nothing is held for %q any more", r.ID)
	}
	select {
	case one.goOn <- !r.Failed:
		return nil
	default:
		return errs.E(errs.Conflict, "%q was let go of before", r.ID)
	}
}
