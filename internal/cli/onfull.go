package cli

import (
	"slices"
	"time"

	"github.com/spf13/pflag"

	"cowl/internal/volume"
)

// onFullFlags are the options that say what becomes of a full snapshot, which
// its tags keep.
type onFullFlags struct {
	policy option[volume.OnFull]
	hold   option[time.Duration]
}

// onFullHelp explains them.
const onFullHelp = `A snapshot is extended before it fills up, as long as its group has free
extents. --onfull says what happens when there are none: invalidate (the
snapshot is lost, as in LVM), readonly (writes to the origin that need space in
it fail, and it lives), or hold (they wait for space, up to --hold, and then as
invalidate). Tags of the snapshot keep it.`

func newOnFull() onFullFlags {
	return onFullFlags{
		policy: option[volume.OnFull]{kind: "invalidate|hold|readonly", parse: volume.ParseOnFull},
		hold:   option[time.Duration]{kind: "Time", parse: volume.ParseHold},
	}
}

func (o *onFullFlags) add(f *pflag.FlagSet) {
	flagOf(f, &o.policy, "onfull", "", "what becomes of a snapshot that is full and cannot be extended")
	flagOf(f, &o.hold, "hold", "", "how long writes may wait for space under hold")
}

func (o *onFullFlags) given() bool { return o.policy.given || o.hold.given }

// tags returns the tags to add: those that were given, and the options'.
func (o *onFullFlags) tags(given []string) []string {
	out := slices.Clone(given)
	if o.policy.given {
		out = append(out, volume.OnFullTag(o.policy.value))
	}
	if o.hold.given {
		out = append(out, volume.HoldTag(o.hold.value))
	}
	return out
}
