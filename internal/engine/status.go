package engine

import (
	"cmp"
	"time"

	"cowl/internal/snap"
	"cowl/internal/volume"
)

// Status is the committed metadata with what runs of it.
type Status struct {
	Model *volume.Group       // see Group.Model
	LVs   map[string]LVStatus // by name; active volumes only
}

// LVStatus is the runtime state of an active volume.
type LVStatus struct {
	Opens     int
	ReadOnly  bool
	Suspended bool
	Cow       *CowStatus // of a snapshot, nil otherwise
	Merging   string     // the snapshot that is being merged into this volume
}

// CowStatus is a store's usage as dm-snapshot's status line gives it.
type CowStatus struct {
	Allocated, Total, Metadata volume.Sectors
	Invalid                    bool
	MergeFailed                bool
	Delayed                    bool   // a merge waits for the origin to be closed
	Reason                     string // why it is invalid or failed, for people

	OnFull    string // what becomes of it when it is full, see volume.OnFull
	Threshold int    // percent in use from which on it is extended; 0 if it is not
	Short     string // why it could not be extended when it had to be, for people
	Holding   int    // writes that wait for space

	// FullIn is when it will be full if it goes on filling as it did,
	// forecast.Never if it does not fill; nil while too little is known.
	FullIn *time.Duration
}

// Status returns the state of this moment. It does not wait for changes, but
// for acknowledged writes to reach the snapshots, whose usage then counts them.
func (g *Group) Status() *Status {
	g.mu.Lock()
	families := g.familyList()
	g.mu.Unlock()
	for _, f := range families {
		f.origin.Settle()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	st := &Status{Model: g.model, LVs: make(map[string]LVStatus, len(g.volumes))}
	for name, v := range g.volumes {
		st.LVs[name] = g.describe(v)
	}
	return st
}

// describe returns a volume's state. The caller holds mu.
func (g *Group) describe(v *vol) LVStatus {
	s := LVStatus{Opens: v.opens, Suspended: v.suspended.Load()}
	if lv := g.model.LV(v.name); lv != nil {
		s.ReadOnly = lv.ReadOnly()
	}
	m := v.family.merge
	switch {
	case v.store != nil:
		u := v.store.Usage()
		s.Cow = describeCow(u)
		v.supply.describe(s.Cow)
		if !v.merging && !u.Invalid {
			s.Cow.FullIn = v.fullIn(u.Total)
		}
		if v.merging && m != nil && m.vol == v {
			s.Cow.Delayed = !m.started && !s.Cow.Invalid
			if m.err != nil {
				s.Cow.MergeFailed, s.Cow.Reason = true, m.err.Error()
			}
		}
	case m != nil:
		s.Merging = m.vol.name
	}
	return s
}

func describeCow(u snap.Usage) *CowStatus {
	return &CowStatus{
		Allocated: sectors(u.Allocated), Total: sectors(u.Total), Metadata: sectors(u.Metadata),
		Invalid: u.Invalid, MergeFailed: u.MergeFailed, Reason: u.Reason,
	}
}

func (s *supply) describe(c *CowStatus) {
	c.OnFull, c.Short, c.Holding = cmp.Or(string(s.OnFull), string(volume.OnFullInvalidate)), s.short, int(s.holding.Load())
	if s.Enabled() {
		c.Threshold = s.Threshold
	}
}

func sectors(bytes int64) volume.Sectors { return volume.Sectors(bytes >> 9) }
