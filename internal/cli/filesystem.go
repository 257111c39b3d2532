package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/fsread"
	"cowl/internal/manager"
)

// inside is a place in a file system that is not mounted: SOURCE:/PATH.
type inside struct {
	source string // a volume (VG/LV), or an image, a device or a partition of one
	path   string // "/" without one
}

func (i inside) String() string { return i.source + ":" + i.path }

// insideArg reads SOURCE:/PATH. Without a path it is all of SOURCE.
func insideArg(arg string) inside {
	if at := strings.Index(arg, ":/"); at > 0 {
		return inside{arg[:at], arg[at+1:]}
	}
	return inside{strings.TrimSuffix(arg, ":"), "/"}
}

// insideHelp is how verbs explain their argument.
const insideHelp = `SOURCE is a volume or snapshot (VG/LV), an image file such as a raw backup, a
device, or a partition of either (disk.img#1). It holds an ext2, ext3 or ext4,
which is read as it is: nothing is mounted, nothing is written, and no
privileges are needed but to read SOURCE. A journal that is not empty is
replayed in memory. Other file systems have to be mounted.`

// withFS opens the file system at a place and calls f.
func (a *app) withFS(ctx context.Context, at inside, f func(*fsread.FS) error) error {
	if isFile(at.source) {
		dev, err := manager.OpenDevice(at.source)
		if err != nil {
			return err
		}
		return errors.Join(a.readFS(ctx, at.source, dev, f), dev.Close())
	}
	if !strings.Contains(at.source, "/") && a.Getenv("LVM_VG_NAME") == "" {
		return errs.WithHint(errs.E(errs.NotFound, "%s: no such file", at.source), "A volume is named VG/LV.")
	}
	name, err := a.lvArg(at.source)
	if err != nil {
		return err
	}
	return a.withGroup(ctx, name.VG, func(g manager.Group, st *manager.Status) error {
		lv, err := st.Group.FindLV(name.LV)
		if err != nil {
			return err
		}
		if rt := st.LVs[lv.Name]; rt.Opens > 0 && !rt.ReadOnly && !lv.ReadOnly() {
			a.warn("%s is in use: what is written to it meanwhile may be seen in part. A snapshot shows one instant.", name)
		}
		dev, err := g.Open(ctx, lv.Name, true)
		if err != nil {
			return fmt.Errorf("open %s: %w", name, err)
		}
		return errors.Join(a.readFS(ctx, name.String(), dev, f), dev.Close())
	})
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

// readFS opens the file system on a device.
func (a *app) readFS(ctx context.Context, source string, dev block.Device, f func(*fsread.FS) error) error {
	fs, err := fsread.Open(ctx, dev, fsread.Options{})
	if err != nil {
		return explainNoFS(source, dev, err)
	}
	return f(fs)
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
	case what != "":
		return errs.WithHint(errs.E(errs.Unsupported, "%s holds %s, and cowl reads ext2, ext3 and ext4 only", source, what),
			"Mount it read-only, as root: mount -o ro (a volume of an active group is a file below the run directory).")
	}
	return err
}
