//go:build linux

package fuse

import (
	"context"
	"sync"
)

// gate lets operations pass until it is shut.
type gate struct {
	mu     sync.Mutex
	inside int
	isShut bool
	empty  chan struct{} // closed when it is shut and nobody is inside
}

func newGate() *gate { return &gate{empty: make(chan struct{})} }

// enter tells whether an operation may begin. If so, leave must follow.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isShut {
		return false
	}
	g.inside++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside--; g.inside == 0 && g.isShut {
		close(g.empty)
	}
}

// shut lets nobody in any more and waits until all have left, or until the
// context ends.
func (g *gate) shut(ctx context.Context) error {
	g.mu.Lock()
	if !g.isShut {
		g.isShut = true
		if g.inside == 0 {
			close(g.empty)
		}
	}
	g.mu.Unlock()
	select {
	case <-g.empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
