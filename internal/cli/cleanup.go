package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"cowl/internal/backup"
	"cowl/internal/manager"
)

// cleanup is one run of the verb.
type cleanup struct {
	*app
	dryRun bool
	json   bool
}

func newCleanup(a *app) *cobra.Command {
	c := &cleanup{app: a}
	cmd := &cobra.Command{
		Use: "cleanup [VG]... [OPTION]...", Short: "Remove snapshots that interrupted backups left behind", GroupID: groupOwn,
		Long: `Remove the snapshots of backups that were killed, in the groups that are named or
in all. A snapshot is known by the tags with which a backup makes it; others are
never touched. What is listed besides stays:

  tracking   by it the next backup into a repository knows what has changed; one
             whose place a later backup's has taken is removed
  in use     its backup is running
  elsewhere  its backup was begun on another host, and may be running there;
             lvremove removes it if it is not

A repository that is not used any more leaves its tracking snapshots behind:
lvremove removes those.`,
		Example: `  cowl cleanup
  cowl cleanup server1 --dry-run
  cowl cleanup server1 --json`,
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&c.dryRun, "dry-run", false, "say what would be removed, and remove nothing")
	f.BoolVar(&c.json, "json", false, "print one JSON object instead of text")
	return cmd
}

func (c *cleanup) run(ctx context.Context, groups []string) error {
	for i, arg := range groups {
		name, err := groupName(arg)
		if err != nil {
			return err
		}
		groups[i] = name
	}
	if len(groups) == 0 {
		data, err := c.inventory(ctx)
		if err != nil {
			return err
		}
		for _, g := range data.Groups {
			groups = append(groups, g.Meta.Name)
		}
	}
	found := []*backup.Own{}
	var failed error
	for _, name := range groups {
		list, err := c.group(ctx, name)
		found = append(found, list...)
		if err != nil {
			c.complain(err)
			failed = coded{errSilent, max(exitCode(failed), exitCode(err))}
		}
	}
	return errors.Join(c.print(found), failed)
}

// group cleans one group up.
func (c *cleanup) group(ctx context.Context, name string) (list []*backup.Own, err error) {
	err = c.withGroup(ctx, name, func(g manager.Group, _ *manager.Status) error {
		list, err = backup.Cleanup(ctx, g, c.dryRun || c.test)
		return err
	})
	return list, err
}

// print says what was found, and what became of it.
func (c *cleanup) print(found []*backup.Own) error {
	if c.json {
		return c.sayJSON(struct {
			Snapshots []*backup.Own `json:"snapshots"`
		}{found})
	}
	if len(found) == 0 {
		c.say("Nothing was left behind.")
		return nil
	}
	for _, o := range found {
		size := ""
		if o.Bytes > 0 {
			size = " (" + sizeText(o.Bytes) + ")"
		}
		c.say("%s %s/%s%s: %s.", c.fate(o), o.VG, o.LV, size, why(o))
	}
	return nil
}

// fate is what becomes of a snapshot.
func (c *cleanup) fate(o *backup.Own) string {
	left := o.Role == backup.Abandoned || o.Role == backup.Superseded
	switch {
	case o.Removed:
		return "Removed"
	case left && (c.dryRun || c.test):
		return "Would remove"
	case left:
		return "Could not remove"
	}
	return "Kept"
}

// why says what a snapshot is for.
func why(o *backup.Own) string {
	switch o.Role {
	case backup.Abandoned:
		return fmt.Sprintf("left by a backup of %s that was killed, process %d", o.Origin, o.Process)
	case backup.Superseded:
		return fmt.Sprintf("a later backup of %s has its own", o.Origin)
	case backup.InUse:
		return fmt.Sprintf("process %d is backing up %s", o.Process, o.Origin)
	case backup.Elsewhere:
		return fmt.Sprintf("of a backup of %s by process %d on %s", o.Origin, o.Process, o.Host)
	}
	return fmt.Sprintf("tracks %s since backup %s for repository %s", o.Origin, short(o.Backup), short(o.Tracks))
}
