package backup

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cowl/internal/errs"
	"cowl/internal/volume"
)

// File names. A partial file is hidden, so that neither a person's ls nor a
// job's *.raw takes it for a backup.
const (
	manifestSuffix = ".json"
	checksumSuffix = ".sha256"
	partialPrefix  = "."
	partialSuffix  = ".partial"
	timeInNames    = "20060102T150405Z"
)

// outputFile is what an image is written through. Tests put faults behind it.
type outputFile interface {
	io.WriterAt
	Truncate(size int64) error
	Sync() error
	Close() error
}

// output is an image on its way into a directory.
type output struct {
	dir, name string     // of the image, once it is good
	f         outputFile // the partial file, locked while it is open
}

// partial is the path under which a file grows.
func partial(dir, name string) string {
	return filepath.Join(dir, partialPrefix+name+partialSuffix)
}

func (o *output) partial() string { return partial(o.dir, o.name) }
func (o *output) path() string    { return filepath.Join(o.dir, o.name) }

// createOutput reserves a name for an image of the volume and opens its
// partial file. Two backups within one second get different names: whoever
// creates the partial file owns the name, and it is taken while the image
// stands there.
func createOutput(dir, vg, lv, ending string, now time.Time, open func(path string) (outputFile, error)) (*output, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	for n := 1; ; n++ {
		o := &output{dir: dir, name: imageName(vg, lv, ending, now, n)}
		f, err := open(o.partial())
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("create image in %s: %w", dir, err)
		}
		o.f = f
		if _, err := os.Lstat(o.path()); errors.Is(err, os.ErrNotExist) {
			return o, nil
		}
		// A backup of the same second ended between the two looks.
		f.Close()
		os.Remove(o.partial())
	}
}

// imageName is the n-th name for an image of the volume at that time.
func imageName(vg, lv, ending string, now time.Time, n int) string {
	stem := volume.DMName(vg, lv) + "." + now.UTC().Format(timeInNames)
	if n > 1 {
		stem += "-" + strconv.Itoa(n)
	}
	return stem + "." + ending
}

// checkDir refuses to make the directory: one that is missing is most often
// a backup disk that is not mounted.
func checkDir(dir string) error {
	st, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errs.WithHint(errs.E(errs.NotFound, "target directory %s does not exist", dir),
			"Make it with mkdir -p %s, or mount the disk that it should be on.", dir)
	case err != nil:
		return err
	case !st.IsDir():
		return errs.E(errs.Usage, "target %s is not a directory", dir)
	}
	return nil
}

// openPartial creates a partial file and locks it, so that another run can
// tell a backup that is running from one that was killed.
func openPartial(path string) (outputFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	// A file system without locks is no reason to have no backup.
	_ = lockFile(f)
	return f, nil
}

// publish gives the verified image its name. Manifest and checksums come
// first: the rename of the image is the commit point, and everything is
// durable before it.
func (o *output) publish(m *Manifest) error {
	text, err := m.Encode()
	if err != nil {
		return err
	}
	for suffix, content := range map[string][]byte{manifestSuffix: text, checksumSuffix: m.checksums(text)} {
		if err := writeDurably(o.dir, o.name+suffix, content); err != nil {
			return err
		}
	}
	if err := syncDir(o.dir); err != nil {
		return err
	}
	if err := o.f.Close(); err != nil {
		return err
	}
	if err := os.Rename(o.partial(), o.path()); err != nil {
		return err
	}
	if err := syncDir(o.dir); err != nil {
		// The name may not outlive a power cut: there is no backup then.
		return errors.Join(err, os.Remove(o.path()))
	}
	return nil
}

// writeDurably writes a small file and flushes it before it gets its name.
func writeDurably(dir, name string, content []byte) error {
	tmp := partial(dir, name)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, name))
	}
	if err != nil {
		os.Remove(tmp)
	}
	return err
}

// abandon removes what there is of a backup that failed, its image apart: that
// has no name of its own unless publish succeeded.
func (o *output) abandon() {
	o.f.Close()
	for _, path := range []string{o.partial(), o.path() + manifestSuffix, o.path() + checksumSuffix,
		partial(o.dir, o.name+manifestSuffix), partial(o.dir, o.name+checksumSuffix)} {
		os.Remove(path)
	}
}

// abandoned lists the partial images of the volume that no running backup
// has locked.
func abandoned(dir, vg, lv string) []string {
	var found []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // what comes next says so better
	}
	stem := partialPrefix + volume.DMName(vg, lv) + "."
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, stem) || !strings.HasSuffix(name, partialSuffix) || !e.Type().IsRegular() {
			continue
		}
		// A volume "root.x" has names that begin as those of "root" do.
		rest := name[len(stem):]
		if len(rest) < len(timeInNames) {
			continue
		}
		if _, err := time.Parse(timeInNames, rest[:len(timeInNames)]); err != nil {
			continue
		}
		if path := filepath.Join(dir, name); !isLocked(path) {
			found = append(found, path)
		}
	}
	return found
}

// isLocked tells whether a running process holds the partial file.
func isLocked(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return errors.Is(err, os.ErrPermission) // somebody else's: not ours to judge
	}
	defer f.Close()
	return !tryLock(f)
}
