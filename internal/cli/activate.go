package cli

import (
	"context"

	"cowl/internal/daemon"
	"cowl/internal/errs"
	"cowl/internal/manager"
)

// activateTarget makes volumes available: through the daemon that owns the
// group, or by starting it.
func (a *app) activateTarget(ctx context.Context, t target) (*manager.Result, error) {
	if a.test {
		return nil, a.withGroup(ctx, t.group, func(g manager.Group, _ *manager.Status) error {
			_, err := g.Activate(ctx, t.names...)
			return err
		})
	}
	c, err := daemon.Connect(ctx, a.runDir(), t.group)
	if err == nil {
		defer c.Close()
		return c.Activate(ctx, t.names...)
	}
	if !errs.Is(err, errs.NotFound) {
		return nil, err
	}
	if err := a.mayActivate(ctx, t); err != nil {
		return nil, err
	}
	if kernel, err := a.host().RunByKernel(ctx, t.group); err != nil || kernel {
		if err != nil {
			return nil, err
		}
		return a.activateByKernel(ctx, t)
	}
	a.settings()
	client, r, err := daemon.Spawn(ctx, a.runDir(), t.group, a.serveCommand(t))
	if client != nil {
		client.Close()
	}
	return r, err
}

// activateByKernel has the host's lvm2 activate volumes.
func (a *app) activateByKernel(ctx context.Context, t target) (r *manager.Result, err error) {
	err = a.withGroup(ctx, t.group, func(g manager.Group, _ *manager.Status) error {
		r, err = g.Activate(ctx, t.names...)
		return err
	})
	return r, err
}

// mayActivate finds out what would keep a daemon from starting and can be
// said better here.
func (a *app) mayActivate(ctx context.Context, t target) error {
	data, err := a.inventory(ctx)
	if err != nil {
		return err
	}
	g := findGroup(data, t.group)
	switch {
	case g == nil:
		return noGroup(t.group)
	case g.Exported():
		return errs.E(errs.Conflict, "Volume group %s is exported", t.group)
	}
	for _, name := range t.names {
		if _, err := g.Meta.FindLV(name); err != nil {
			return err
		}
	}
	return nil
}
