package cli

import (
	"time"

	"github.com/spf13/pflag"

	"cowl/internal/backup"
)

// hookFlags are the options about what rests while snapshots are taken.
type hookFlags struct {
	before, after, done, failure textOption
	timeout                      option[time.Duration]
	noFreeze                     bool
}

func newHookFlags() hookFlags {
	return hookFlags{
		before: newText("COMMAND"), after: newText("COMMAND"), done: newText("COMMAND"), failure: newText("COMMAND"), timeout: durationOption(),
	}
}

func (o *hookFlags) add(f *pflag.FlagSet) {
	flagOf(f, &o.before, string(backup.BeforeSnapshot), "", "run this before the snapshots are taken")
	flagOf(f, &o.after, string(backup.AfterSnapshot), "", "run this when they are taken, or could not be")
	flagOf(f, &o.done, string(backup.AfterBackup), "", "run this when all backups are good")
	flagOf(f, &o.failure, string(backup.OnFailure), "", "run this when a backup failed")
	flagOf(f, &o.timeout, "hook-timeout", "", "how long each of these may take (1m)")
	f.BoolVar(&o.noFreeze, "no-freeze", false, "do not freeze file systems")
}

// hooks returns the hooks that the options name.
func (o *hookFlags) hooks(a *app) backup.Hooks {
	h := backup.Hooks{Commands: map[backup.Stage]string{}, Limit: o.timeout.value, Output: a.Stderr}
	for stage, option := range map[backup.Stage]textOption{
		backup.BeforeSnapshot: o.before, backup.AfterSnapshot: o.after, backup.AfterBackup: o.done, backup.OnFailure: o.failure,
	} {
		if option.given {
			h.Commands[stage] = option.value
		}
	}
	return h
}
