package snap

import (
	"context"
	"sync"
	"time"
)

// Pace bounds how fast a merge copies, so that it leaves a disk to others. The
// zero value does not bound it. Set may be called at any time; Step and Wait are
// for who makes the steps.
type Pace struct {
	mu      sync.Mutex
	rate    int64         // bytes a second; 0: as fast as it goes
	due     time.Time     // when the next step may begin
	changed chan struct{} // closed when the rate is set; nil while nobody waits
}

// paceSteps is how many steps a second are taken: more would cost flushes,
// fewer would come in bursts that others notice.
const paceSteps = 4

// longest is what a step is waited for at most, a year: more might be no Duration.
const longest = 365 * 24 * time.Hour

// Set bounds the rate from now on, in bytes a second; 0 does not. Who waits for
// an earlier one need not any more.
func (p *Pace) Set(rate int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if rate == p.rate {
		return
	}
	p.rate, p.due = rate, time.Time{}
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// Rate returns the bound in bytes a second, 0 if there is none.
func (p *Pace) Rate() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rate
}

// Step returns how much a step should copy at most, in bytes, for
// Origin.LimitMergeStep.
func (p *Pace) Step() int64 {
	if rate := p.Rate(); rate > 0 {
		return min(mergeBytes, max(1, rate/paceSteps))
	}
	return mergeBytes
}

// Wait returns when the next step may begin, after one that copied so many
// bytes, or with the context's error. What took longer than the rate asks for is
// not made up for: that would be a burst.
func (p *Pace) Wait(ctx context.Context, copied int64) error {
	p.mu.Lock()
	if p.rate == 0 {
		p.mu.Unlock()
		return ctx.Err()
	}
	now := time.Now()
	if p.due.Before(now) {
		p.due = now
	}
	seconds := min(longest.Seconds(), float64(copied)/float64(p.rate))
	p.due = p.due.Add(time.Duration(seconds * float64(time.Second)))
	wait := time.NewTimer(p.due.Sub(now))
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	changed := p.changed
	p.mu.Unlock()
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-changed:
	case <-ctx.Done():
	}
	return ctx.Err()
}
