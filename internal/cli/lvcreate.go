package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/quiet"
	"cowl/internal/volume"
)

// lvcreate is one run of the verb.
type lvcreate struct {
	*app
	cmd        *cobra.Command
	size       option[int64]
	extents    option[volume.Size]
	chunk      option[volume.Sectors]
	name       textOption
	kind       option[bool] // --type: whether it is a snapshot
	snapshot   bool
	contiguous yesNo
	permission yesNo
	activate   yesNo
	zero, wipe yesNo
	tags       tagsOption
	full       onFullFlags
	rest       restFlags
	pause      quiet.Pause // what rested
}

func newLVCreate(a *app) *cobra.Command {
	c := &lvcreate{
		app: a, size: sizeOption('m'), name: newText("Name"),
		extents:    option[volume.Size]{kind: "Number[PERCENT]", parse: volume.ParseExtents},
		chunk:      option[volume.Sectors]{kind: "Size[k|UNIT]", parse: volume.ParseChunkSize},
		kind:       option[bool]{kind: "linear|snapshot", parse: oneOf(map[string]bool{"linear": false, "striped": false, "snapshot": true})},
		contiguous: newYesNo(), permission: newPermission(), activate: newActivation(), zero: newYesNo(), wipe: newYesNo(),
		full: newOnFull(), rest: newRestFlags(),
	}
	c.cmd = &cobra.Command{
		Use: `lvcreate -L SIZE|-l EXTENTS [OPTION]... VG [PV[:RANGE]]...
  cowl lvcreate -s [-L SIZE|-l EXTENTS] [OPTION]... VG/ORIGIN [PV[:RANGE]]...`,
		Short: "Create a logical volume or a snapshot", GroupID: groupLVM,
		Long: `Create a logical volume, or with -s a copy-on-write snapshot of one.

A snapshot is there at once, whatever its origin's size. Its own size is what
may change, of the origin or of the snapshot, while it lives. Take what you
expect the origin to change, not what it holds; it is extended before it fills
up, as long as the group has free extents. When it has none a full snapshot is
lost, unless --onfull says otherwise: see cowl help lvchange.
Without a size cowl takes one for an hour of writes as it has watched them, and
the chunk size for it; see cowl advise. If it has not watched long enough yet, it
takes all that could ever be of use, or half of the free space if that is less.

A file system that is mounted from the origin's file (mount -o loop; as root) is
frozen for that moment, so that what was written there is in the snapshot. Hooks
bring applications to rest, see cowl help snapshot.

Sizes are rounded up to extents. -L takes a number with a unit (b, s, k, m, g,
t, p, e; m without one), -l a number of extents or N%VG, N%FREE, N%PVS, or of a
snapshot N%ORIGIN. Extents are taken from the PVs that are named, if any are;
PV:0-99 limits that further.

In a group that is active the new volume is active at once (-an leaves it
inactive). In one that is not, it stays inactive; -ay starts the group's daemon
with it. The first 4 KiB of a volume are zeroed.`,
		Example: `  cowl lvcreate -L 30G -n backups vg
  cowl lvcreate -l 100%FREE -n data vg disk2.img
  cowl lvcreate -s -L 10G -n before /dev/vg/data
  cowl lvcreate -s -n backup vg/data
  cowl lvcreate -s -l 20%ORIGIN -p r -n frozen vg/data`,
		Args: c.checkArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return usageError(cmd, c.run(args)) },
	}
	f := c.cmd.Flags()
	flagOf(f, &c.size, "size", "L", "size in bytes")
	flagOf(f, &c.extents, "extents", "l", "size in extents, or a percentage with VG, FREE, PVS or ORIGIN")
	flagOf(f, &c.name, "name", "n", "name; without one it is the next free lvolN")
	f.BoolVarP(&c.snapshot, "snapshot", "s", false, "create a snapshot of the volume that is named")
	flagOf(f, &c.chunk, "chunksize", "c", "how much a snapshot copies at a time, 4k to 512k (default 4k)")
	flagOf(f, &c.permission, "permission", "p", "writeable or read-only")
	flagOf(f, &c.activate, "activate", "a", "activate it, or leave it inactive")
	f.Var(&c.tags, "addtag", "add a tag")
	c.full.add(f)
	c.rest.add(f)
	flagOf(f, &c.contiguous, "contiguous", "C", "take adjacent extents only")
	flagOf(f, &c.kind, "type", "", "linear or snapshot")
	flagOf(f, &c.zero, "zero", "Z", "accepted: the beginning is always zeroed")
	flagOf(f, &c.wipe, "wipesignatures", "W", "accepted: zeroing removes signatures")
	return c.cmd
}

// checkArgs wants a size, and a group or an origin.
func (c *lvcreate) checkArgs(cmd *cobra.Command, args []string) error {
	c.snapshot = c.snapshot || c.kind.value
	switch {
	case c.size.given && c.extents.given:
		return usage(cmd, "Please specify either size or extents (not both).")
	case c.size.given && c.size.value == 0:
		return usage(cmd, "--size may not be zero.")
	case c.extents.given && c.extents.value.IsZero():
		return usage(cmd, "--extents may not be zero.")
	case !c.sized() && !c.snapshot, len(args) == 0 && (c.snapshot || !strings.Contains(c.name.value, "/")):
		return noSyntax(cmd)
	case c.chunk.given && !c.snapshot:
		return usage(cmd, "-c is only available with snapshots.")
	case c.full.given() && !c.snapshot:
		return usage(cmd, "--onfull and --hold are only available with snapshots.")
	case c.rest.given() && !c.snapshot:
		return usage(cmd, "--no-freeze and hooks are only available with snapshots.")
	}
	return nil
}

func (c *lvcreate) sized() bool { return c.size.given || c.extents.given }

func (c *lvcreate) run(args []string) error {
	where, pvArgs, err := c.where(args)
	if err != nil {
		return err
	}
	pvs, err := pvRanges(pvArgs)
	if err != nil {
		return err
	}
	c.testMode()
	var created []string
	var warned error
	err = c.withGroup(c.cmd.Context(), where.VG, func(g manager.Group, s *manager.Status) error {
		r, err := c.create(g, where, pvs)
		if errs.OnlyWarnings(err) {
			warned, err = err, nil
		}
		if err != nil {
			return err
		}
		c.tell(r.Notes)
		created = r.Names
		if s.Owner != 0 && c.activate.given && !c.activate.value && !c.snapshot {
			_, err = g.Deactivate(c.cmd.Context(), created...)
		}
		return err
	})
	if err != nil {
		return err
	}
	if c.activate.given && c.activate.value && !c.test {
		r, err := c.activateTarget(c.cmd.Context(), target{group: where.VG, names: created})
		if err != nil {
			return err
		}
		c.tell(r.Notes)
	}
	for _, name := range created {
		c.say("Logical volume %q created.", name)
	}
	c.sayPause(c.pause)
	return warned
}

// where returns the group and, of a snapshot, the origin, and the arguments
// that name PVs. The new volume's name may carry the group.
func (c *lvcreate) where(args []string) (lvName, []string, error) {
	var named lvName
	if strings.Contains(c.name.value, "/") {
		n, err := splitName(c.name.value)
		if err != nil {
			return n, nil, err
		}
		named, c.name.value = lvName{VG: n.VG}, n.LV
	}
	if len(args) == 0 {
		return named, nil, nil
	}
	n, err := splitName(args[0])
	if err != nil {
		return n, nil, err
	}
	switch vg := c.Getenv("LVM_VG_NAME"); {
	case c.snapshot && n.LV == "" && vg != "":
		n = lvName{VG: vg, LV: n.VG}
	case c.snapshot && n.LV == "":
		return n, nil, errs.E(errs.Usage, "The origin name should include the volume group.")
	case !c.snapshot && n.LV != "":
		return n, nil, errs.E(errs.Usage, "Volume group name expected (no slash)")
	}
	if named.VG != "" && named.VG != n.VG {
		return n, nil, errs.E(errs.Usage, "Inconsistent volume group names given: %q and %q", named.VG, n.VG)
	}
	return n, args[1:], nil
}

func (c *lvcreate) create(g manager.Group, where lvName, pvs []volume.PVRange) (*manager.Result, error) {
	size := c.extents.value
	if c.size.given {
		size = volume.Size{Bytes: c.size.value}
	}
	if c.snapshot {
		return c.createSnapshot(manager.Part{Group: g, Name: where.VG, Specs: []volume.SnapshotSpec{{
			Origin: where.LV, Name: c.name.value, Size: size, ChunkSize: c.chunk.value,
			PVs: pvs, ReadOnly: c.permission.value, Tags: c.full.tags(c.tags),
		}}})
	}
	return g.CreateLV(c.cmd.Context(), volume.LVSpec{
		Name: c.name.value, Size: size, PVs: pvs, ReadOnly: c.permission.value, Tags: c.tags, Contiguous: c.contiguous.value,
	})
}

func (c *lvcreate) createSnapshot(p manager.Part) (r *manager.Result, err error) {
	c.pause, _, err = c.rest.while(c.cmd.Context(), c.app, []manager.Part{p}, "", func(ctx context.Context) (err error) {
		r, err = p.Group.CreateSnapshots(ctx, p.Specs)
		return err
	})
	return r, err
}

// pvRanges reads the PVs that extents may be taken from.
func pvRanges(args []string) ([]volume.PVRange, error) {
	var out []volume.PVRange
	for _, arg := range args {
		r, err := volume.ParsePVRanges(arg)
		if err != nil {
			return nil, err
		}
		out = append(out, r...)
	}
	return out, nil
}
