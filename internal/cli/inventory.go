package cli

import (
	"context"
	"os"

	"cowl/internal/cli/fields"
	"cowl/internal/daemon"
	"cowl/internal/manager"
)

// host returns the way to groups and devices, as the options and the
// environment say.
func (a *app) host() *manager.Host {
	return manager.NewHost(manager.HostOptions{
		Devices: a.devices, DevicesFile: a.devicesFile,
		Backend: a.backend.value,
		RunDir:  a.runDir(), StateDir: a.stateDir(),
		Dial: func(ctx context.Context, runDir, group string) (manager.Group, error) {
			c, err := daemon.Connect(ctx, runDir, group)
			if err != nil {
				return nil, err // not a Client that is nil in an interface that is not
			}
			return c, nil
		},
		Getenv: a.Getenv, Now: a.Now, Log: a.log, Command: a.command, Program: program(),
	})
}

// runDir is where daemons have their sockets.
func (a *app) runDir() string {
	if a.rundir != "" {
		return a.rundir
	}
	if dir := a.Getenv("COWL_RUN_DIR"); dir != "" {
		return absolute(dir)
	}
	return daemon.DefaultRunDir(a.Getenv, os.Getuid())
}

// stateDir is where the devices file and copies of the metadata go, "" for
// the usual place.
func (a *app) stateDir() string {
	if a.statedir != "" {
		return a.statedir
	}
	if dir := a.Getenv("COWL_STATE_DIR"); dir != "" {
		return absolute(dir)
	}
	return ""
}

// scan finds groups and PVs. What is wrong with single devices are warnings, so
// an error means that cowl does not know where to look.
func (a *app) scan(ctx context.Context) (*manager.Inventory, error) {
	inv, err := a.host().Scan(ctx)
	if err != nil && ctx.Err() == nil {
		err = coded{err, exitInit}
	}
	return inv, err
}

// inventory reads all groups and PVs that can be seen, and passes on the
// warnings about them.
func (a *app) inventory(ctx context.Context) (*fields.Data, error) {
	if a.source != nil {
		return a.source(ctx)
	}
	inv, err := a.scan(ctx)
	if err != nil {
		return nil, err
	}
	a.noteOnce(inv.Warnings)
	return dataOf(inv), nil
}

// noteOnce passes on warnings, each once.
func (a *app) noteOnce(texts []string) {
	for _, w := range texts {
		if !a.warned[w] {
			a.note("%s", w)
			a.warned[w] = true
		}
	}
}

// settings returns what the configuration file says, and warns of what it says
// in vain. An error in it is told by whoever cannot do without: opening a group
// in this process, and the daemon that does.
func (a *app) settings() manager.Settings {
	s, warnings, _ := a.host().Settings()
	a.noteOnce(warnings)
	return s
}

// dataOf turns an inventory into what reports are made of.
func dataOf(inv *manager.Inventory) *fields.Data {
	d := &fields.Data{}
	for _, g := range inv.Groups {
		pvs := make([]*fields.PV, len(g.PVs))
		for i, pv := range g.PVs {
			pvs[i] = pvOf(pv)
			if pv.Missing {
				meta := g.Meta.PVs[i]
				pvs[i].Labelled, pvs[i].PEStart = true, meta.PEStart
				pvs[i].BAStart, pvs[i].BASize = meta.BAStart, meta.BASize
			}
		}
		d.Groups = append(d.Groups, fields.NewGroup(g.Meta, g.LVs, pvs))
	}
	for _, pv := range inv.Orphans {
		d.Orphans = append(d.Orphans, pvOf(pv))
	}
	for _, pv := range inv.Devices {
		d.Devices = append(d.Devices, pvOf(pv))
	}
	d.Sort()
	return d
}

func pvOf(pv *manager.PVInfo) *fields.PV {
	return &fields.PV{
		Path: pv.Path, ID: pv.ID, DevSize: pv.Size, Major: pv.Major, Minor: pv.Minor,
		Labelled: pv.Labelled, LabelSize: pv.LabelSize, PEStart: pv.PEStart,
		BAStart: pv.BAStart, BASize: pv.BASize, ExtVersion: pv.ExtVersion, InUse: pv.InUse,
		MDAs: pv.MDAs, Missing: pv.Missing,
	}
}
