package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cowl/internal/backup"
	"cowl/internal/backup/repo"
	"cowl/internal/backup/repo/targets"
)

func newList(a *app) *cobra.Command {
	var o accessFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list TARGET [VG/LV] [OPTION]...", Short: "List backups", GroupID: groupOwn,
		Long: `List the backups in a target, oldest first: a directory, or a repository
(repo:DIR). The first column is what verify, restore and forget know a backup
by, behind the target and two colons.

Base is the backup that one was made from: then only what had changed since was
read. Stored is what the backup added to the target.

` + passwordHelp,
		Example: `  cowl list /backups
  cowl list repo:/backups/cowl
  cowl list repo:/backups/cowl server1/root --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return noSyntax(cmd)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			t, name, err := targets.Parse(args[0])
			if err != nil {
				return usageError(cmd, err)
			}
			if name != "" {
				return usage(cmd, "%s is a backup: name the target alone.", args[0])
			}
			var only lvName
			if len(args) == 2 {
				if only, err = a.lvArg(args[1]); err != nil {
					return usageError(cmd, err)
				}
			}
			lines, err := a.backups(cmd.Context(), t, o)
			if err != nil {
				return err
			}
			lines = ofVolume(lines, only)
			if asJSON {
				return a.sayBackupsJSON(lines)
			}
			return a.sayBackups(lines)
		},
	}
	o.add(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object instead of a table")
	return cmd
}

// listed is a backup in any kind of target.
type listed struct {
	ID     string // as it is named behind the target
	VG, LV string
	LVUUID string
	Time   time.Time
	Bytes  int64
	Stored int64
	Base   string
	Fault  string

	stored *repo.Backup
	image  *backup.Listed
}

// backups lists a target.
func (a *app) backups(ctx context.Context, t targets.Target, o accessFlags) (out []listed, err error) {
	if !t.IsRepository() {
		images, err := backup.ListDir(t.Path)
		for _, i := range images {
			out = append(out, listed{ID: filepath.Base(i.Image), VG: i.VG, LV: i.LV, LVUUID: i.LVUUID, Time: i.Time, Bytes: i.Bytes, Stored: i.Stored, Fault: i.Fault, image: i})
		}
		return out, err
	}
	err = a.withRepo(ctx, t, o, false, func(r *repo.Repo) error {
		out, err = storedBackups(ctx, r)
		return err
	})
	return out, err
}

func storedBackups(ctx context.Context, r *repo.Repo) (out []listed, err error) {
	all, err := r.List(ctx)
	for _, b := range all {
		out = append(out, listed{ID: b.ID, VG: b.VG, LV: b.LV, LVUUID: b.LVUUID, Time: b.Time, Bytes: b.Bytes, Stored: b.Stored, Base: b.Base, stored: b})
	}
	return out, err
}

// ofVolume leaves out backups of other volumes.
func ofVolume(in []listed, only lvName) (out []listed) {
	for _, l := range in {
		if only.VG == "" || only.VG == l.VG && only.LV == l.LV {
			out = append(out, l)
		}
	}
	return out
}

// shownID is how much of an ID a table shows.
const shownID = 12

func short(id string) string {
	if len(id) > shownID && !strings.Contains(id, ".") {
		return id[:shownID]
	}
	return id
}

// sayBackups prints a table.
func (a *app) sayBackups(lines []listed) error {
	if len(lines) == 0 {
		a.say("No backups.")
		return nil
	}
	w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, indent+"Backup\tVolume\tTime\tSize\tStored\tBase")
	for _, l := range lines {
		volume := l.VG + "/" + l.LV
		base := "-"
		if l.Base != "" {
			base = short(l.Base)
		}
		if l.Fault != "" {
			volume, base = "?", "damaged: "+l.Fault
		}
		fmt.Fprintf(w, indent+"%s\t%s\t%s\t%s\t%s\t%s\n", short(l.ID), volume, l.Time.In(a.Zone).Format("2006-01-02 15:04:05 -0700"), sizeText(l.Bytes), sizeText(l.Stored), base)
	}
	return w.Flush()
}

func (a *app) sayBackupsJSON(lines []listed) error {
	out := struct {
		Backups []any `json:"backups"`
	}{Backups: []any{}}
	for _, l := range lines {
		if l.stored != nil {
			out.Backups = append(out.Backups, l.stored)
		} else {
			out.Backups = append(out.Backups, l.image)
		}
	}
	return a.sayJSON(out)
}
