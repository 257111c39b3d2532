package cli

import (
	"context"
	"time"

	"github.com/spf13/pflag"

	"cowl/internal/manager"
	"cowl/internal/quiet"
)

// restFlags are the options about what rests while snapshots are taken.
type restFlags struct {
	before, after textOption
	timeout       option[time.Duration]
	noFreeze      bool
}

func newRestFlags() restFlags {
	return restFlags{before: newText("COMMAND"), after: newText("COMMAND"), timeout: durationOption()}
}

func (o *restFlags) add(f *pflag.FlagSet) {
	flagOf(f, &o.before, string(quiet.BeforeSnapshot), "", "run this before the snapshots are taken")
	flagOf(f, &o.after, string(quiet.AfterSnapshot), "", "run this when they are taken, or could not be")
	flagOf(f, &o.timeout, "hook-timeout", "", "how long each of these may take (1m)")
	f.BoolVar(&o.noFreeze, "no-freeze", false, "do not freeze file systems")
}

// given tells whether any of them was.
func (o *restFlags) given() bool {
	return o.before.given || o.after.given || o.timeout.given || o.noFreeze
}

// while takes snapshots, as the parts ask for, while what is mounted from their
// origins rests. notes are what did not rest, which was said already. --test changes
// nothing, so nothing has to rest for it. The error is quiet.While's.
func (o *restFlags) while(ctx context.Context, a *app, parts []manager.Part, instant string, take func(context.Context) error) (pause quiet.Pause, notes []string, err error) {
	if a.test {
		return pause, nil, take(ctx)
	}
	plan := quiet.Plan{NoFreeze: o.noFreeze, Hooks: o.hooks(a), Subject: quiet.Subject{Instant: instant}}
	plan.Warn = func(text string) {
		a.warn("%s", text)
		notes = append(notes, text)
	}
	for _, p := range parts {
		v := quiet.Volumes{Group: p.Group}
		for _, s := range p.Specs {
			v.LVs = append(v.LVs, s.Origin)
			plan.Subject.Volumes = append(plan.Subject.Volumes, fullName(p.Name, s.Origin))
		}
		plan.Volumes = append(plan.Volumes, v)
	}
	pause, err = quiet.While(ctx, plan, take)
	return pause, notes, err
}

// hooks returns the hooks that the options name.
func (o *restFlags) hooks(a *app) quiet.Hooks {
	h := quiet.Hooks{Commands: map[quiet.Stage]string{}, Limit: o.timeout.value, Output: a.Stderr}
	addHook(h, quiet.BeforeSnapshot, o.before)
	addHook(h, quiet.AfterSnapshot, o.after)
	return h
}

func addHook(h quiet.Hooks, stage quiet.Stage, command textOption) {
	if command.given {
		h.Commands[stage] = command.value
	}
}

// hookFlags are these, and the hooks of what follows the snapshots.
type hookFlags struct {
	restFlags
	done, failure textOption
}

func newHookFlags() hookFlags {
	return hookFlags{restFlags: newRestFlags(), done: newText("COMMAND"), failure: newText("COMMAND")}
}

func (o *hookFlags) add(f *pflag.FlagSet) {
	o.restFlags.add(f)
	flagOf(f, &o.done, string(quiet.AfterBackup), "", "run this when all backups are good")
	flagOf(f, &o.failure, string(quiet.OnFailure), "", "run this when a backup failed")
}

// hooks returns the hooks that the options name.
func (o *hookFlags) hooks(a *app) quiet.Hooks {
	h := o.restFlags.hooks(a)
	addHook(h, quiet.AfterBackup, o.done)
	addHook(h, quiet.OnFailure, o.failure)
	return h
}
