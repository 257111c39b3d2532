package manager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cowl/internal/errs"
	"cowl/internal/volume"
)

// Part is what one group has part in an instant.
type Part struct {
	Group Group
	Name  string // of the group
	Specs []volume.SnapshotSpec
}

// The bounds of how long writers of several groups may have to wait.
const (
	holdTogether = 10 * time.Second
	holdForEach  = 2 * time.Second // more, for each volume above four
)

// Together takes snapshots in several groups at one instant: no write to any of
// the origins lies between. All of the snapshots are made, or none. The results
// are in the order of the parts, of which no two are of one group.
//
// The groups are held one inside another: when the first holds its origins still
// it has the next one do the same, and so on; the innermost takes its snapshots
// and lets go, then the one around it. The instant is when all are held. What is
// written to an inner group after that is in none of the snapshots, and nothing is
// written to an outer one before it has its own.
func Together(ctx context.Context, parts []Part) ([]*Result, error) {
	if len(parts) == 1 {
		r, err := parts[0].Group.CreateSnapshots(ctx, parts[0].Specs)
		return []*Result{r}, err
	}
	t := together{parts: parts, results: make([]*Result, len(parts)), limit: holdTogether}
	volumes := 0
	for _, p := range parts {
		volumes += len(p.Specs)
	}
	t.limit += time.Duration(max(0, volumes-4)) * holdForEach
	if err := t.sort(ctx); err != nil {
		return nil, err
	}
	if err := t.take(ctx, 0); err != nil {
		return nil, err
	}
	return t.results, nil
}

type together struct {
	parts   []Part
	order   []int // of parts, from the outermost to the innermost
	results []*Result
	limit   time.Duration
}

// How far inside a group has to be.
const (
	outside = iota // lvm2's, which takes seconds: it would hold up the others
	middle         // cowl's, which takes milliseconds
	inside         // one of which a volume cannot be held, see hostlvm.Group.Unholdable
)

// sort puts the groups into their order.
func (t *together) sort(ctx context.Context) error {
	rank := make([]int, len(t.parts))
	first := ""
	for i, p := range t.parts {
		t.order = append(t.order, i)
		rank[i] = middle
		g, hosted := p.Group.(*Hosted)
		if !hosted {
			continue
		}
		rank[i] = outside
		own, err := g.group.Unholdable(ctx, p.Specs)
		if err != nil {
			return err
		}
		if own && first != "" {
			return errs.WithHint(errs.E(errs.Unsupported, "groups %s and %s cannot show one instant: both have a volume in it that cannot be held still, a thin one or one with files that lvm2 needs", first, p.Name),
				"Take their snapshots one after the other.")
		}
		if own {
			rank[i], first = inside, p.Name
		}
	}
	slices.SortStableFunc(t.order, func(a, b int) int { return cmp.Compare(rank[a], rank[b]) })
	return nil
}

// take takes the snapshots of the n-th group of the order, and of those inside
// it. After an error there are none.
func (t *together) take(ctx context.Context, n int) error {
	i := t.order[n]
	p := t.parts[i]
	var err error
	if n == len(t.order)-1 {
		t.results[i], err = p.Group.CreateSnapshots(ctx, p.Specs)
		return err
	}
	entered := false
	t.results[i], err = p.Group.CreateSnapshotsWhile(ctx, p.Specs, t.limit, func(ctx context.Context) error {
		err := t.take(ctx, n+1)
		entered = err == nil
		return err
	})
	if err == nil && !entered {
		err = errs.E(errs.Other, "group %s took its snapshots without being held", p.Name)
	}
	if err != nil && entered {
		err = errors.Join(err, t.remove(ctx, n+1))
	}
	return err
}

// removeTime bounds what is still done after something has failed.
const removeTime = 2 * time.Minute

// remove takes back what groups have made, from the n-th of the order on.
func (t *together) remove(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
	defer cancel()
	var problems []error
	for _, i := range t.order[n:] {
		r, p := t.results[i], t.parts[i]
		if r == nil {
			continue
		}
		t.results[i] = nil
		if _, err := p.Group.RemoveLVs(ctx, r.Names); err != nil {
			problems = append(problems, fmt.Errorf("snapshots of %s were left behind, %q: %w", p.Name, r.Names, err))
		}
	}
	return errors.Join(problems...)
}

// timed runs what is done while a group is held, and tells if that took too long.
func timed(ctx context.Context, limit time.Duration, held func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errs.E(errs.Conflict, "volumes were to be held for longer than %v", limit))
	defer cancel()
	if err := held(ctx); err != nil {
		return err
	}
	return context.Cause(ctx)
}
