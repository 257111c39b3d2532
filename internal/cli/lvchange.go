package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"cowl/internal/errs"
	"cowl/internal/manager"
)

// lvchange is one run of the verb.
type lvchange struct {
	*app
	cmd        *cobra.Command
	activate   yesNo
	permission yesNo
}

func newLVChange(a *app) *cobra.Command {
	c := &lvchange{app: a, activate: newActivation(), permission: newPermission()}
	c.cmd = &cobra.Command{
		Use: "lvchange [OPTION]... VG|VG/LV|@TAG...", Short: "Activate or deactivate volumes, change their permission", GroupID: groupLVM,
		Long: `Change logical volumes.

Activation makes volumes available as NBD exports and files; the first one of
a group starts the daemon that owns the group, and the last one to go ends it.
An origin and its snapshots are active together.`,
		Example: `  cowl lvchange -ay vg/data
  cowl lvchange -an vg/data
  cowl lvchange -p r vg/data`,
		Args: func(cmd *cobra.Command, args []string) error {
			if !c.activate.given && !c.permission.given || len(args) == 0 {
				return noSyntax(cmd)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(args) },
	}
	f := c.cmd.Flags()
	flagOf(f, &c.activate, "activate", "a", "make the volumes available, or take them away")
	flagOf(f, &c.permission, "permission", "p", "make the volumes writeable or read-only")
	return c.cmd
}

func (c *lvchange) run(args []string) error {
	if c.permission.given {
		if err := c.eachTarget(c.cmd, args, c.setPermission); err != nil {
			return err
		}
	}
	if !c.activate.given {
		return nil
	}
	if !c.activate.value {
		return c.eachTarget(c.cmd, args, c.deactivate)
	}
	targets, err := c.targets(c.cmd.Context(), args)
	if err != nil {
		return err
	}
	return c.each(targets, func(t target) error {
		r, err := c.app.activateTarget(c.cmd.Context(), t)
		if r != nil {
			c.tell(r.Notes)
		}
		return err
	})
}

func (c *lvchange) setPermission(t target, g manager.Group, s *manager.Status) error {
	names, failed := c.volumes(t, s)
	for _, name := range names {
		r, err := g.SetReadOnly(c.cmd.Context(), name, c.permission.value)
		if err != nil {
			c.complain(err)
			failed = errSilent
			continue
		}
		c.tell(r.Notes)
		c.say("Logical volume %s changed.", fullName(t.group, name))
	}
	return failed
}

// deactivate takes volumes away. A snapshot takes its family along, which is
// asked about.
func (c *lvchange) deactivate(t target, g manager.Group, s *manager.Status) error {
	names, failed := c.volumes(t, s)
	if t.names == nil {
		_, err := g.Deactivate(c.cmd.Context())
		return err
	}
	for _, name := range names {
		if err := c.deactivateOne(name, g, s); err != nil {
			c.complain(err)
			failed = errSilent
		}
	}
	return failed
}

func (c *lvchange) deactivateOne(name string, g manager.Group, s *manager.Status) error {
	lv, err := s.Group.FindLV(name)
	if err != nil {
		return err
	}
	if _, active := s.LVs[name]; !active {
		return nil
	}
	full := fullName(s.Group.Name, name)
	if origin, snaps := family(s.Group, lv); origin != lv {
		ok, err := c.confirm("Change of snapshot %s will also change its origin %s and %d other snapshot(s). Proceed?",
			full, fullName(s.Group.Name, origin.Name), len(snaps)-1)
		if err != nil || !ok {
			return errors.Join(err, errs.E(errs.Other, "Logical volume %s not changed.", full))
		}
		name = origin.Name
	}
	r, err := g.Deactivate(c.cmd.Context(), name)
	if r != nil {
		c.tell(r.Notes)
	}
	return err
}
