package cli

import (
	"github.com/spf13/cobra"

	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// lvextend is one run of the verb.
type lvextend struct {
	*app
	cmd     *cobra.Command
	size    option[bytesArg]
	extents option[extentsArg]
}

// bytesArg and extentsArg are sizes where + means "more than now".
type bytesArg struct {
	bytes    int64
	relative bool
}

type extentsArg struct {
	size     volume.Size
	relative bool
}

func newLVExtend(a *app) *cobra.Command {
	c := &lvextend{
		app:     a,
		size:    option[bytesArg]{kind: "[+]Size[m|UNIT]", parse: parseMoreBytes},
		extents: option[extentsArg]{kind: "[+]Number[PERCENT]", parse: parseMoreExtents},
	}
	c.cmd = &cobra.Command{
		Use: `lvextend -L [+]SIZE|-l [+]EXTENTS [OPTION]... VG/LV [PV[:RANGE]]...
  cowl lvextend [OPTION]... VG/LV PV[:RANGE]...`,
		Short: "Add space to a logical volume or a snapshot", GroupID: groupLVM,
		Long: `Make a logical volume larger, or give a snapshot more room for changes, also
while it is in use.

With + the size is what is added, without it what the volume shall have: a
number with a unit (-L; m without one), extents or N%VG, N%FREE, N%PVS, N%LV, or
of a snapshot N%ORIGIN (-l). Extents are taken from the PVs that are named, if
any are. With PVs and no size, all that is free on them is added. A snapshot
gets no more than it needs to hold all of its origin.

A client that has the volume open sees its new size when it connects again. The
snapshots of a volume keep the size that it had when they were taken. What is
in the volume is left as it is: make a file system larger with its own tools.`,
		Example: `  cowl lvextend -L +10G vg/data
  cowl lvextend -l +100%FREE vg/data disk2.img
  cowl lvextend -l 50%ORIGIN vg/before     # a snapshot that fills up`,
		Args: c.checkArgs,
		RunE: func(_ *cobra.Command, args []string) error { return usageError(c.cmd, c.run(args)) },
	}
	f := c.cmd.Flags()
	flagOf(f, &c.size, "size", "L", "size in bytes, or with + how much more")
	flagOf(f, &c.extents, "extents", "l", "size in extents, or a percentage with VG, FREE, PVS, LV or ORIGIN")
	f.CountP("force", "f", "accepted for LVM's sake")
	return c.cmd
}

func parseMoreBytes(text string) (bytesArg, error) {
	n, sign, err := volume.ParseRelativeSize(text, 'm')
	if err == nil && sign == volume.Minus {
		err = errs.E(errs.Usage, "Size may not be negative.")
	}
	return bytesArg{n, sign == volume.Plus}, err
}

func parseMoreExtents(text string) (extentsArg, error) {
	s, sign, err := volume.ParseRelativeExtents(text)
	if err == nil && sign == volume.Minus {
		err = errs.E(errs.Usage, "Extents may not be negative.")
	}
	return extentsArg{s, sign == volume.Plus}, err
}

func (c *lvextend) checkArgs(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0, !c.size.given && !c.extents.given && len(args) == 1:
		return noSyntax(cmd)
	case c.size.given && c.extents.given:
		return usage(cmd, "Please specify either size or extents but not both.")
	case c.size.given && c.size.value.bytes == 0:
		return usage(cmd, "--size may not be zero.")
	case c.extents.given && c.extents.value.size.IsZero():
		return usage(cmd, "--extents may not be zero.")
	}
	return nil
}

func (c *lvextend) run(args []string) error {
	n, err := c.lvArg(args[0])
	switch {
	case errs.Is(err, errs.Usage):
		return usage(c.cmd, "Please specify a logical volume path.")
	case err != nil: // LVM's exit code for it
		return usage(c.cmd, "%v", err)
	}
	spec := c.spec(n.LV)
	if spec.PVs, err = pvRanges(args[1:]); err != nil {
		return err
	}
	c.testMode()
	return c.withGroup(c.cmd.Context(), n.VG, func(g manager.Group, s *manager.Status) error {
		if _, err := s.Group.FindLV(n.LV); err != nil {
			return errs.E(errs.NotFound, "Logical volume %s not found in volume group %s.", n.LV, n.VG)
		}
		r, err := g.ExtendLV(c.cmd.Context(), spec)
		if err != nil {
			return err
		}
		c.tell(r.Notes)
		c.say("Logical volume %s successfully resized.", n)
		return nil
	})
}

// spec is what is asked for. Without a size it is what is free on the PVs.
func (c *lvextend) spec(name string) volume.ExtendSpec {
	switch {
	case c.size.given:
		return volume.ExtendSpec{Name: name, Size: volume.Size{Bytes: c.size.value.bytes}, Relative: c.size.value.relative}
	case c.extents.given:
		return volume.ExtendSpec{Name: name, Size: c.extents.value.size, Relative: c.extents.value.relative}
	}
	return volume.ExtendSpec{Name: name, Size: volume.Size{Percent: 100, Of: volume.OfPVs}, Relative: true}
}
