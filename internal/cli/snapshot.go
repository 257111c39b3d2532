package cli

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cowl/internal/backup"
	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/quiet"
	"cowl/internal/volume"
)

// roomFlags say how much room a snapshot gets.
type roomFlags struct {
	size    option[int64]
	extents option[volume.Size]
}

func newRoom() roomFlags {
	return roomFlags{size: sizeOption('m'), extents: option[volume.Size]{kind: "Number[%VG|FREE|ORIGIN]", parse: volume.ParseExtents}}
}

func (o *roomFlags) add(f *pflag.FlagSet, whose string) {
	flagOf(f, &o.size, "size", "L", "room for "+whose)
	flagOf(f, &o.extents, "extents", "l", "room for "+whose+", in extents")
}

// value returns the size, the zero Size where none was given.
func (o *roomFlags) value(cmd *cobra.Command) (volume.Size, error) {
	if o.size.given && o.extents.given {
		return volume.Size{}, usage(cmd, "Please specify only one of --size and --extents.")
	}
	if err := notZero(o.size.given, o.size.value == 0, "size"); err != nil {
		return volume.Size{}, usageError(cmd, err)
	}
	if err := notZero(o.extents.given, o.extents.value.IsZero(), "extents"); err != nil {
		return volume.Size{}, usageError(cmd, err)
	}
	if o.size.given {
		return volume.Size{Bytes: o.size.value}, nil
	}
	return o.extents.value, nil
}

// snapshotVerb is one run of cowl snapshot.
type snapshotVerb struct {
	*app
	name       textOption
	room       roomFlags
	chunk      option[volume.Sectors]
	permission yesNo
	tags       tagsOption
	rest       restFlags
	json       bool
}

// defaultSnapshotName is how snapshots are called.
const defaultSnapshotName = "{lv}.{time}"

func newSnapshot(a *app) *cobra.Command {
	c := &snapshotVerb{
		app: a, name: newText("PATTERN"), room: newRoom(), permission: newPermission(), rest: newRestFlags(),
		chunk: option[volume.Sectors]{kind: "Size[k|UNIT]", parse: volume.ParseChunkSize},
	}
	cmd := &cobra.Command{
		Use: "snapshot VG/LV...|VG [OPTION]...", Short: "Take snapshots of several volumes at one instant", GroupID: groupOwn,
		Long: `Take snapshots of volumes, or of all of a group, at one instant: no write to any
of them lies between. Writers wait for that moment, and for no longer. All of the
snapshots are made, or none. The volumes may be of several groups.

Each is named by the pattern, in which {lv} is the volume, {vg} the group and
{time} the time as 20060102T150405Z, UTC. They get a tag "cowl.instant=ID", by
which cowl backup knows later that they belong together.

File systems that are mounted from the volumes' files (mount -o loop; as root) are
frozen for that moment, so that what was written there is in the snapshots. Hooks
bring applications to rest; docs/cli.md has their environment. If all that failed
is what came after the snapshots, the exit code is 1.

Sizes are as in lvcreate -s, and of each snapshot. Without one, the snapshots
share what a single one would take. A whole group leaves out snapshots and what
cowl cannot activate.`,
		Example: `  cowl snapshot vg/root vg/home
  cowl snapshot vg
  cowl snapshot vg/db fast/log
  cowl snapshot vg/db vg/log -n '{lv}-before' -L 2G -p r`,
		Args: atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, args) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	flagOf(f, &c.name, "name", "n", "what they are called ("+defaultSnapshotName+")")
	c.room.add(f, "each snapshot")
	flagOf(f, &c.chunk, "chunksize", "c", "how much a snapshot copies at a time, 4k to 512k (default 4k)")
	flagOf(f, &c.permission, "permission", "p", "writeable or read-only")
	f.Var(&c.tags, "addtag", "add a tag")
	c.rest.add(f)
	f.BoolVar(&c.json, "json", false, "print one JSON object instead of lines")
	return cmd
}

// snapshotsTaken is what --json prints.
type snapshotsTaken struct {
	VG        string          `json:"vg,omitempty"` // "" if there are several
	Instant   string          `json:"instant"`
	Snapshots []snapshotTaken `json:"snapshots"`
	quiet.Pause
	Notes []string `json:"notes,omitempty"`
}

type snapshotTaken struct {
	VG     string `json:"vg"`
	Origin string `json:"origin"`
	LV     string `json:"lv"`
}

func (c *snapshotVerb) run(cmd *cobra.Command, args []string) error {
	size, err := c.room.value(cmd)
	if err != nil {
		return err
	}
	ts, err := c.someTargets(cmd, args)
	if err != nil {
		return err
	}
	c.testMode()
	return c.withGroups(cmd.Context(), ts, func(groups []openedGroup) error {
		out := snapshotsTaken{Instant: backup.NewInstant()}
		var parts []manager.Part
		var names []string // of the groups
		for _, g := range groups {
			part, err := c.part(cmd, g, size, &out)
			if err != nil {
				return err
			}
			parts = append(parts, part)
			names = append(names, part.Name)
		}
		if len(names) == 1 {
			out.VG = names[0]
		}
		var results []*manager.Result
		pause, unrested, err := c.rest.while(cmd.Context(), c.app, parts, out.Instant, func(ctx context.Context) (err error) {
			results, err = manager.Together(ctx, parts)
			return err
		})
		if err != nil && !errs.OnlyWarnings(err) {
			return err
		}
		out.Pause = pause
		for _, r := range results {
			out.Notes = append(out.Notes, r.Notes...)
		}
		if c.json {
			out.Notes = append(unrested, out.Notes...)
			return errors.Join(err, c.sayJSON(out))
		}
		c.tell(out.Notes)
		for _, s := range out.Snapshots {
			c.say("Logical volume %q created.", s.LV)
		}
		if len(out.Snapshots) > 1 {
			c.say("%d snapshots of %s show one instant, %s.", len(out.Snapshots), strings.Join(names, " and "), out.Instant)
		}
		c.sayPause(out.Pause)
		return err
	})
}

// part plans the snapshots of one group.
func (c *snapshotVerb) part(cmd *cobra.Command, g openedGroup, size volume.Size, out *snapshotsTaken) (manager.Part, error) {
	part := manager.Part{Group: g.Group, Name: g.target.group}
	origins, err := c.members(g.target, g.status)
	if err != nil {
		return part, err
	}
	names, err := c.names(cmd, g.status.Group, origins)
	if err != nil {
		return part, err
	}
	for i, origin := range origins {
		part.Specs = append(part.Specs, volume.SnapshotSpec{
			Origin: origin, Name: names[i], Size: size, ChunkSize: c.chunk.value, ReadOnly: c.permission.value,
			Tags: append([]string{backup.InstantTag + out.Instant}, c.tags...),
		})
		out.Snapshots = append(out.Snapshots, snapshotTaken{part.Name, origin, names[i]})
	}
	volume.ShareFree(part.Specs)
	return part, nil
}

// names makes the snapshots' names. A name with the time in it that is taken
// gets a number behind it, as in a second run within the second.
func (c *snapshotVerb) names(cmd *cobra.Command, vg *volume.Group, origins []string) ([]string, error) {
	pattern := defaultSnapshotName
	if c.name.given {
		pattern = c.name.value
	}
	now := c.Now().UTC().Format("20060102T150405Z")
	for n := 1; ; n++ {
		suffix := ""
		if n > 1 {
			suffix = "_" + strconv.Itoa(n)
		}
		var names []string
		seen, taken := map[string]bool{}, false
		for _, lv := range origins {
			name := strings.NewReplacer("{lv}", lv, "{vg}", vg.Name, "{time}", now).Replace(pattern) + suffix
			if seen[name] {
				return nil, usage(cmd, "--name %s gives two snapshots one name: it needs {lv}.", pattern)
			}
			seen[name] = true
			taken = taken || vg.LV(name) != nil
			names = append(names, name)
		}
		if !taken || !strings.Contains(pattern, "{time}") {
			return names, nil
		}
	}
}

// someTargets reads arguments that name volumes or groups, one at least.
func (a *app) someTargets(cmd *cobra.Command, args []string) ([]target, error) {
	ts, err := a.targets(cmd.Context(), args)
	switch {
	case err != nil:
		return nil, usageError(cmd, err)
	case len(ts) == 0:
		return nil, errs.E(errs.NotFound, "Nothing has the tag %s.", strings.Join(args, " "))
	}
	return ts, nil
}

// members names the volumes that the target means, of a group all that can be
// backed up.
func (a *app) members(t target, st *manager.Status) ([]string, error) {
	if t.names != nil {
		for _, name := range t.names {
			if _, err := st.Group.FindLV(name); err != nil {
				return nil, err
			}
		}
		return t.names, nil
	}
	names, skipped := backup.WholeGroup(st)
	for _, text := range skipped {
		a.warn("%s", text)
	}
	if len(names) == 0 {
		return nil, errs.E(errs.NotFound, "There is no volume in volume group %q.", t.group)
	}
	return names, nil
}
