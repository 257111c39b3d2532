package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"cowl/internal/archive"
	"cowl/internal/backup"
	"cowl/internal/errs"
	"cowl/internal/unpack"
)

// cpFlags are the options of cowl cp.
type cpFlags struct {
	overwrite, json bool
	access          accessFlags
}

func newCp(a *app) *cobra.Command {
	var o cpFlags
	cmd := &cobra.Command{
		Use: "cp SOURCE:/PATH... DEST [OPTION]...", Short: "Bring files back from a volume, snapshot or backup", GroupID: groupOwn,
		Long: `Copy files, and directories with all that is in them, out of a volume, a snapshot
or a backup: with owners, modes, times to the nanosecond, hard links, symbolic
links, devices, extended attributes, ACLs and holes. Without root, owners and
devices cannot be set, which is said. Sockets are left out.

If DEST is a directory the files go into it under their own names, else DEST is
the name of the one that is copied. The root of a file system (SOURCE:/) has no
name: what is in it goes into DEST.

Files that exist are refused before anything is written, unless --overwrite is
given; then each is replaced in one step. Directories that exist are filled and
keep what is in them. A file has its name only once it is complete. Nothing is
ever written outside of DEST.

What cannot be read or made is named, and the rest copied; the exit code is 1
then.

` + insideHelp + `

` + passwordHelp,
		Example: `  cowl cp server1/monday:/etc/fstab /etc/fstab --overwrite
  cowl cp repo:/backups/cowl::latest:/home/ann /tmp
  cowl cp /backups/server1-root.20260102T030405Z.raw:/etc ./etc-of-january`,
		Args: atLeast(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, arg := range args[:len(args)-1] {
				if !hasPath(arg) {
					return usage(cmd, "%s names no file: a place inside of something is SOURCE:/PATH.", arg)
				}
			}
			return o.run(cmd, a, args)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&o.overwrite, "overwrite", false, "replace files that exist")
	o.access.add(f)
	f.BoolVar(&o.json, "json", false, "print one JSON object instead of a summary")
	return cmd
}

// run copies the places that come before the last argument to that.
func (o *cpFlags) run(cmd *cobra.Command, a *app, args []string) error {
	dest := args[len(args)-1]
	if hasPath(dest) {
		return usage(cmd, "DEST is a place in the file system of this machine, not %s: to change a volume, mount it.", dest)
	}
	st, err := os.Stat(dest)
	isDir := err == nil && st.IsDir()
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case !isDir && len(args) > 2:
		return errs.E(errs.Usage, "%s is not a directory, and several files cannot have one name", dest)
	case err != nil && strings.HasSuffix(dest, "/"):
		return errs.WithHint(errs.E(errs.NotFound, "directory %s does not exist", dest), "Make it with: mkdir -p %s", dest)
	}
	c := copier{cpFlags: o, a: a, dest: dest, isDir: isDir}
	var failed error
	for _, arg := range args[:len(args)-1] {
		at := insideArg(arg)
		if err := a.withFiles(cmd.Context(), at, o.access, filesOptions{}, func(fl *files) error { return c.copy(cmd.Context(), fl, at) }); err != nil {
			return err
		}
		if c.incomplete {
			failed = coded{errSilent, exitIncomplete}
		}
	}
	return failed
}

// copier is one run of the verb.
type copier struct {
	*cpFlags
	a          *app
	dest       string
	isDir      bool // dest is a directory that exists
	incomplete bool
}

// copied is what is printed with --json.
type copied struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
	*unpack.Report
}

// copy copies one place.
func (c *copier) copy(ctx context.Context, fl *files, at inside) error {
	return fl.withTree(at, func(tree archive.Tree) error { return c.unpack(ctx, tree, at) })
}

func (c *copier) unpack(ctx context.Context, tree archive.Tree, at inside) error {
	name := path.Base(path.Clean(at.path))
	to := c.place(name)
	full := filepath.Join(to.Dir, to.Name)
	p := c.a.newProgress()
	opts := unpack.Options{Overwrite: c.overwrite, DryRun: c.a.test, Failed: func(name string, err error) error {
		p.note(err.Error())
		c.incomplete = true
		return nil
	}}
	if show := p.absolute(backup.Writing); show != nil {
		opts.Progress = func(done int64) { show(done, 0) }
	}
	r, err := unpack.Unpack(ctx, tree, to, opts)
	p.end()
	if err != nil {
		return fmt.Errorf("%s to %s: %w", at, full, err)
	}
	return c.say(copied{at.String(), full, r})
}

// place is where a file of the name goes. A root has none.
func (c *copier) place(name string) unpack.Place {
	switch {
	case c.isDir && name == "/":
		return unpack.Place{Dir: c.dest, Name: "."}
	case c.isDir:
		return unpack.Place{Dir: c.dest, Name: name}
	}
	dest := filepath.Clean(c.dest)
	return unpack.Place{Dir: filepath.Dir(dest), Name: filepath.Base(dest)}
}

// say prints what was copied, and what of it is not as it was.
func (c *copier) say(r copied) error {
	for _, n := range r.NotSet {
		who := ""
		if n.Privilege {
			who = ", which takes root"
		} else {
			c.incomplete = true
		}
		c.a.warn("%s not set%s: %d file(s), %s for one (%s)", n.What, who, n.Files, printable(n.First), n.Why)
	}
	if r.Sockets > 0 {
		c.a.warn("%d socket(s) left out", r.Sockets)
	}
	if c.json {
		return c.a.sayJSON(r)
	}
	verb := "Copied"
	if c.a.test {
		verb = "Would copy"
	}
	c.a.say("%s %s to %s: %s.", verb, printable(r.Source), printable(r.Destination), strings.Join(c.counts(r.Report), ", "))
	return nil
}

// counts are the parts of a summary that are not empty.
func (c *copier) counts(r *unpack.Report) []string {
	var parts []string
	for _, p := range []struct {
		n         int64
		one, many string
	}{{r.Files, "file", "files"}, {r.Directories, "directory", "directories"}, {r.Symlinks, "symbolic link", "symbolic links"},
		{r.HardLinks, "hard link", "hard links"}, {r.Devices, "device file", "device files"}, {r.Failed, "FAILED", "FAILED"}} {
		switch p.n {
		case 0:
		case 1:
			parts = append(parts, "1 "+p.one)
		default:
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.many))
		}
	}
	if c.a.test {
		return parts
	}
	return append(parts, sizeText(r.Bytes))
}
