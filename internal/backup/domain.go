package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cowl/internal/backup/domainxml"
	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// domain is the description of the virtual machine whose disks are backed up. A
// copy of it goes beside the images, with these as its disks.
type domain struct {
	dir, name string // of the copy
	text      []byte
	jobs      []*job
}

const domainSuffix = ".xml"

// newDomain reads the description and rewrites it for images that have their names
// by now, so that what is wrong with it is said before there is a snapshot. note
// is told what in the copy is not from this backup.
func newDomain(ctx context.Context, path string, jobs []*job, started time.Time, note func(string)) (*domain, error) {
	text, err := readLimited(path, domainxml.MaxSize)
	if err != nil {
		return nil, err
	}
	places := map[string]*job{}
	for _, j := range jobs { // of one group or several
		st, err := j.g.Status(ctx)
		if err != nil {
			return nil, err
		}
		for _, p := range pathsOf(st, j.src.lv.Name) {
			places[p] = j
		}
	}
	var failed error
	r, err := domainxml.Rewrite(text, func(path string) (domainxml.Image, bool) {
		j := findPlace(places, path)
		if j == nil {
			return domainxml.Image{}, false
		}
		image, err := filepath.Abs(j.out.path())
		failed = errors.Join(failed, err)
		return domainxml.Image{Path: image, Type: string(j.o.Format)}, true
	})
	switch {
	case errors.Join(err, failed) != nil:
		return nil, fmt.Errorf("%s: %w", path, errors.Join(err, failed))
	case len(r.Changes) == 0:
		err := errs.E(errs.Usage, "%s: none of the domain's disks is a volume that is backed up", path)
		for _, l := range r.Left {
			err = errs.E(errs.Usage, "%w; %s", err, l)
		}
		return nil, errs.WithHint(err, "Name the volumes that are its disks; virsh domblklist DOMAIN shows them.")
	}
	d := &domain{dir: jobs[0].o.Dir, text: r.Text, jobs: jobs}
	d.reserve(strings.TrimSuffix(filepath.Base(path), domainSuffix) + "." + started.UTC().Format(timeInNames))
	for _, l := range r.Left {
		note(fmt.Sprintf("%s: %s", path, l))
	}
	for _, j := range jobs {
		if image, _ := filepath.Abs(j.out.path()); !slices.ContainsFunc(r.Changes, func(c domainxml.Change) bool { return c.To == image }) {
			note(fmt.Sprintf("%s: %s/%s is none of the domain's disks", path, j.src.vg.Name, j.src.lv.Name))
		}
		j.m.Domain, j.report.Domain = d.name, filepath.Join(d.dir, d.name)
	}
	return d, nil
}

// reserve takes the first name that is free.
func (d *domain) reserve(stem string) {
	for n := 1; ; n++ {
		d.name = stem + domainSuffix
		if n > 1 {
			d.name = stem + "-" + strconv.Itoa(n) + domainSuffix
		}
		if _, err := os.Lstat(filepath.Join(d.dir, d.name)); err != nil {
			return
		}
	}
}

// pathsOf are the paths by which a description may name a volume.
func pathsOf(st *manager.Status, lv string) []string {
	vg := st.Group.Name
	out := []string{"/dev/" + vg + "/" + lv, "/dev/mapper/" + volume.DMName(vg, lv)}
	if file := st.LVs[lv].File; file != "" {
		out = append(out, file)
	}
	return out
}

// findPlace finds the backup of what a path names: as it is written, or, where the
// path leads to, the same file or device.
func findPlace(places map[string]*job, path string) *job {
	if !filepath.IsAbs(path) {
		return nil
	}
	if j := places[filepath.Clean(path)]; j != nil {
		return j
	}
	there, err := os.Stat(path)
	if err != nil {
		return nil
	}
	for p, j := range places {
		if st, err := os.Stat(p); err == nil && os.SameFile(st, there) {
			return j
		}
	}
	return nil
}

// publish writes the copy, once all images are there.
func (d *domain) publish() error {
	if _, err := os.Lstat(filepath.Join(d.dir, d.name)); err == nil {
		return errs.E(errs.Exists, "%s has come into being meanwhile", filepath.Join(d.dir, d.name))
	}
	sum := sha256.Sum256(d.text)
	if err := writeDurably(d.dir, d.name+checksumSuffix, []byte(hex.EncodeToString(sum[:])+"  "+d.name+"\n")); err != nil {
		return err
	}
	if err := errors.Join(writeDurably(d.dir, d.name, d.text), syncDir(d.dir)); err != nil {
		return errors.Join(err, os.Remove(filepath.Join(d.dir, d.name+checksumSuffix)))
	}
	return nil
}

// removeDomain removes the description that an image had beside it, when no other
// image has it as well.
func removeDomain(dir, name string) error {
	if name == "" {
		return nil
	}
	others, err := ListDir(dir)
	if err != nil || slices.ContainsFunc(others, func(l *Listed) bool { return l.Domain == name }) {
		return err
	}
	for _, path := range []string{name, name + checksumSuffix} {
		if err := os.Remove(filepath.Join(dir, path)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
