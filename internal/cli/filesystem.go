package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cowl/internal/backup"
	"cowl/internal/backup/repo"
	"cowl/internal/backup/repo/targets"
	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/errs"
	"cowl/internal/fsread"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// inside is a place in a file system that is not mounted: SOURCE:/PATH.
type inside struct {
	source string // a volume, a backup, an image, a device or a partition
	path   string // "/" without one
}

func (i inside) String() string { return i.source + ":" + i.path }

// insideArg reads SOURCE:/PATH. Without a path it is all of SOURCE.
func insideArg(arg string) inside {
	if source, path := targets.SplitPath(arg); path != "" {
		return inside{source, path}
	}
	return inside{strings.TrimSuffix(arg, ":"), "/"}
}

// hasPath tells whether an argument names a place inside of something.
func hasPath(arg string) bool {
	_, path := targets.SplitPath(arg)
	return path != "" && !isFile(arg)
}

// insideHelp is how verbs explain their argument.
const insideHelp = `SOURCE is a volume or snapshot (VG/LV), a backup (DIR::IMAGE, repo:DIR::BACKUP), an
image file, raw or qcow2, a device, a partition of either (disk.img#1), or a tar
archive, which may be compressed by gzip or zstd. An ext2, ext3 or ext4 in it is read
as it is: nothing is mounted, nothing is written, and no privileges are needed but to
read SOURCE. A journal that is not empty is replayed in memory. XFS is mounted for the
moment, read-only and where nobody else sees it, which takes root and FUSE.`

// source is what a person wants to look into, open for reading.
type source struct {
	name string
	dev  block.Device
	// Of a file, its path.
	file string
	// Of a backup in a repository, what it says of itself, and what ends when it
	// is no longer certain that it stays there.
	record *repo.Record
	lost   context.Context
	// Of a volume, its group.
	group manager.Group
	vg    *volume.Group
	lv    string
}

// opener opens sources. While a source is open, others of the same group or
// repository share that: a group that no daemon has can be opened once only.
type opener struct {
	a      *app
	access accessFlags
	groups map[string]*openGroup
	repos  map[string]*repo.Repo

	unwarned bool // that a volume is in use is said by the caller
}

// openGroup is a group that is open.
type openGroup struct {
	g  manager.Group
	st *manager.Status
}

func (a *app) opener(access accessFlags) *opener {
	return &opener{a: a, access: access, groups: map[string]*openGroup{}, repos: map[string]*repo.Repo{}}
}

// with opens what a source is, and calls f.
func (o *opener) with(ctx context.Context, name string, f func(*source) error) error {
	if isFile(name) {
		return o.withDevice(name, name, f)
	}
	t, id, err := targets.Parse(name)
	switch {
	case err != nil:
		return err
	case t.IsRepository() && id == "":
		return errs.WithHint(errs.E(errs.Usage, "%s is a repository: name a backup in it, as %[1]s::BACKUP.", name), "cowl list %s shows them.", name)
	case t.IsRepository():
		return o.withBackup(ctx, t, id, f)
	case id != "":
		return o.withDevice(name, filepath.Join(t.Path, id), f)
	case !strings.Contains(name, "/") && o.a.Getenv("LVM_VG_NAME") == "":
		return errs.WithHint(errs.E(errs.NotFound, "%s: no such file", name), "A volume is named VG/LV.")
	}
	return o.withVolume(ctx, name, f)
}

func (o *opener) withDevice(name, path string, f func(*source) error) error {
	dev, err := manager.OpenDisk(path, func(path string) (block.Device, error) {
		if is, err := backup.IsQcow2(path); err != nil || !is {
			return file.Open(path, file.Options{ReadOnly: true})
		}
		dev, _, err := backup.OpenImage(path, true)
		return dev, err
	})
	if err != nil {
		return err
	}
	return errors.Join(f(&source{name: name, dev: dev, file: path}), dev.Close())
}

// withBackup opens a backup in a repository.
func (o *opener) withBackup(ctx context.Context, t targets.Target, id string, f func(*source) error) error {
	if r := o.repos[t.String()]; r != nil {
		return o.withImage(ctx, r, t, id, f)
	}
	return o.a.withRepo(ctx, t, o.access, true, func(r *repo.Repo) error {
		o.repos[t.String()] = r
		defer delete(o.repos, t.String())
		return o.withImage(ctx, r, t, id, f)
	})
}

// withImage opens a backup's image, and keeps the backup from being forgotten.
func (o *opener) withImage(ctx context.Context, r *repo.Repo, t targets.Target, id string, f func(*source) error) error {
	b, err := r.Find(ctx, id)
	if err != nil {
		return err
	}
	return o.a.withLock(ctx, r, "reading of "+id, b.ID, func(ctx context.Context) error {
		image, rec, err := r.Image(ctx, b)
		if err != nil {
			return err
		}
		return errors.Join(f(&source{name: t.String() + "::" + id, dev: image, record: rec, lost: ctx}), image.Close())
	})
}

// withVolume opens a volume.
func (o *opener) withVolume(ctx context.Context, arg string, f func(*source) error) error {
	name, err := o.a.lvArg(arg)
	if err != nil {
		return err
	}
	if g := o.groups[name.VG]; g != nil {
		return o.volume(ctx, g, name, f)
	}
	return o.a.withGroup(ctx, name.VG, func(g manager.Group, st *manager.Status) error {
		o.groups[name.VG] = &openGroup{g, st}
		defer delete(o.groups, name.VG)
		return o.volume(ctx, o.groups[name.VG], name, f)
	})
}

func (o *opener) volume(ctx context.Context, g *openGroup, name lvName, f func(*source) error) error {
	lv, err := g.st.Group.FindLV(name.LV)
	if err != nil {
		return err
	}
	if rt := g.st.LVs[lv.Name]; !o.unwarned && rt.Opens > 0 && !rt.ReadOnly && !lv.ReadOnly() {
		o.a.warn("%s is in use: what is written to it meanwhile may be seen in part. A snapshot shows one instant.", name)
	}
	dev, err := g.g.Open(ctx, lv.Name, true)
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	return errors.Join(f(&source{name: name.String(), dev: dev, group: g.g, vg: g.st.Group, lv: lv.Name}), dev.Close())
}

// isFile tells whether a source is a file or device by its name. A group is
// never taken for one: its volumes have a slash in their names.
func isFile(source string) bool {
	path, _, _ := strings.Cut(source, "#")
	for _, p := range []string{source, path} {
		if st, err := os.Stat(p); err == nil && !st.IsDir() {
			return true
		}
	}
	return false
}

// readFS opens the file system in a source.
func readFS(ctx context.Context, s *source) (*fsread.FS, error) {
	fs, err := fsread.Open(ctx, s.dev, fsread.Options{})
	if err != nil {
		return nil, explainNoFS(s.name, s.dev, err)
	}
	return fs, nil
}

// explainNoFS says what to do about something that cannot be read.
func explainNoFS(source string, dev block.Device, err error) error {
	err = fmt.Errorf("%s: %w", source, err)
	if !errs.Is(err, errs.NotFound) {
		return err
	}
	what, partitioned, probeErr := manager.Kind(dev)
	switch {
	case probeErr != nil:
		return err
	case what == "LVM2_member":
		return errs.WithHint(errs.E(errs.NotFound, "%s is a physical volume, and has no file system of its own", source),
			"Name a volume of its group: cowl lvs --devices %s lists them.", source)
	case partitioned:
		return errs.WithHint(errs.E(errs.NotFound, "%s has partitions, and no file system of its own", source), "Name one of them: %s#1", source)
	case what == "xfs":
		return errs.E(errs.Unsupported, "%s holds xfs", source)
	case what != "":
		return errs.WithHint(errs.E(errs.Unsupported, "%s holds %s, and cowl reads ext2, ext3, ext4 and XFS only", source, what),
			"Mount it read-only, as root: mount -o ro (a volume of an active group is a file below the run directory).")
	}
	return err
}
