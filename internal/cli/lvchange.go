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
	add, del   tagsOption
	full       onFullFlags
}

func newLVChange(a *app) *cobra.Command {
	c := &lvchange{app: a, activate: newActivation(), permission: newPermission(), full: newOnFull()}
	c.cmd = &cobra.Command{
		Use: "lvchange [OPTION]... VG|VG/LV|@TAG...", Short: "Activate or deactivate volumes, change their permission and tags", GroupID: groupLVM,
		Long: `Change logical volumes.

Activation makes volumes available as NBD exports and files; the first one of
a group starts the daemon that owns the group, and the last one to go ends it.
An origin and its snapshots are active together.

` + onFullHelp,
		Example: `  cowl lvchange -ay vg/data
  cowl lvchange -an vg/data
  cowl lvchange -p r vg/data
  cowl lvchange --addtag db --deltag old vg/data
  cowl lvchange --onfull hold --hold 2h vg/snap`,
		Args: func(cmd *cobra.Command, args []string) error {
			if !c.activate.given && !c.changes() || len(args) == 0 {
				return noSyntax(cmd)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(args) },
	}
	f := c.cmd.Flags()
	flagOf(f, &c.activate, "activate", "a", "make the volumes available, or take them away")
	flagOf(f, &c.permission, "permission", "p", "make the volumes writeable or read-only")
	f.Var(&c.add, "addtag", "add a tag")
	f.Var(&c.del, "deltag", "remove a tag")
	c.full.add(f)
	return c.cmd
}

// changes reports whether metadata is to be changed.
func (c *lvchange) changes() bool {
	return c.permission.given || len(c.add)+len(c.del) > 0 || c.full.given()
}

func (c *lvchange) run(args []string) error {
	if c.changes() {
		if err := c.eachTarget(c.cmd, args, c.change); err != nil {
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

// change alters the metadata of a target's volumes.
func (c *lvchange) change(t target, g manager.Group, s *manager.Status) error {
	names, failed := c.volumes(t, s)
	for _, name := range names {
		if err := c.changeOne(name, g, s); err != nil {
			c.complain(err)
			failed = errSilent
			continue
		}
		c.say("Logical volume %s changed.", fullName(t.group, name))
	}
	return failed
}

func (c *lvchange) changeOne(name string, g manager.Group, s *manager.Status) error {
	if c.full.given() && !s.Group.IsCow(s.Group.LV(name)) {
		return errs.E(errs.Usage, "Logical volume %s is not a snapshot.", fullName(s.Group.Name, name))
	}
	if c.permission.given {
		r, err := g.SetReadOnly(c.cmd.Context(), name, c.permission.value)
		if err != nil {
			return err
		}
		c.tell(r.Notes)
	}
	if add := c.full.tags(c.add); len(add)+len(c.del) > 0 {
		r, err := g.ChangeTags(c.cmd.Context(), name, add, c.del)
		if err != nil {
			return err
		}
		c.tell(r.Notes)
	}
	return nil
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
