// Package localstore keeps a repository's blobs as files below a directory, in
// the layout of kopia's filesystem storage, so that the stock kopia opens the
// same directory.
//
// It is not kopia's own driver because of what it promises: a blob that was
// put is durable under its name, the directories on its path included, and
// can be read back from the disk instead of from memory.
package localstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/blob/filesystem"
	"github.com/kopia/kopia/repo/blob/sharded"

	"cowl/internal/errs"
)

// Modes of what is made.
const (
	fileMode = 0o600
	dirMode  = 0o700
)

// store is a blob.Storage: kopia's sharding over files.
type store struct {
	sharded.Storage
	blob.DefaultProviderImplementation
}

// formatFile is the file that makes a directory a repository.
const formatFile = "kopia.repository" + sharded.CompleteBlobSuffix

// New returns the storage in a directory that holds a repository, or, with
// create, in one that is to, and is made if only it is missing.
func New(path string, create bool) (blob.Storage, error) {
	if create {
		if err := os.Mkdir(path, dirMode); err != nil && !errors.Is(err, os.ErrExist) && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, errs.WithHint(errs.E(errs.NotFound, "directory %s does not exist", path),
			"Make it with mkdir -p %s, or mount the disk that it should be on.", path)
	case err != nil:
		return nil, err
	case !st.IsDir():
		return nil, errs.E(errs.Usage, "%s is not a directory", path)
	}
	// Before anything is asked of kopia's sharding, which leaves a file of its
	// own wherever it looks.
	if _, err := os.Stat(filepath.Join(path, formatFile)); err != nil && !create {
		if !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		return nil, errs.E(errs.NotFound, "there is no repository in %s", path)
	}
	return &store{Storage: sharded.New(&files{root: path, known: map[string]bool{}}, path, sharded.Options{}, true)}, nil
}

// ConnectionInfo implements blob.Storage: how the stock kopia would connect.
func (s *store) ConnectionInfo() blob.ConnectionInfo {
	return blob.ConnectionInfo{Type: "filesystem", Config: &filesystem.Options{Path: s.RootPath}}
}

// CheckLayout says whether the file that says how blobs are spread over
// directories is as it was written.
func (s *store) CheckLayout() error {
	path := filepath.Join(s.RootPath, sharded.ParametersFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var p sharded.Parameters
	if err := p.Load(bytes.NewReader(text)); err != nil {
		return errs.E(errs.Corrupt, "%s: %w", path, err)
	}
	var again bytes.Buffer
	if err := p.Save(&again); err != nil {
		return err
	}
	if !bytes.Equal(text, again.Bytes()) {
		return errs.E(errs.Corrupt, "%s is not as kopia writes it", path)
	}
	return nil
}

// DisplayName implements blob.Storage.
func (s *store) DisplayName() string { return s.RootPath }

// files is a sharded.Impl.
type files struct {
	root string

	mu    sync.Mutex
	known map[string]bool // directories that are durable; guarded by mu
}

// GetBlobFromPath implements sharded.Impl.
func (f *files) GetBlobFromPath(_ context.Context, _, path string, off, length int64, out blob.OutputBuffer) error {
	out.Reset()
	in, err := os.Open(path)
	if err != nil {
		return notFound(err)
	}
	defer in.Close()
	if length < 0 {
		_, err = io.Copy(out, in)
		return err
	}
	if _, err := io.Copy(out, io.NewSectionReader(in, off, length)); err != nil {
		return err
	}
	if int64(out.Length()) != length {
		return fmt.Errorf("%s ends before byte %d: %w", path, off+length, blob.ErrInvalidRange)
	}
	return nil
}

// notFound says in kopia's word that a blob is not there.
func notFound(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return blob.ErrBlobNotFound
	}
	return err
}

// GetMetadataFromPath implements sharded.Impl.
func (f *files) GetMetadataFromPath(_ context.Context, _, path string) (blob.Metadata, error) {
	st, err := os.Stat(path)
	if err != nil {
		return blob.Metadata{}, notFound(err)
	}
	return blob.Metadata{Length: st.Size(), Timestamp: st.ModTime()}, nil
}

// PutBlobInPath implements sharded.Impl. The order is what makes it safe: the
// bytes are durable before they get the name, and the name before the call
// returns. Afterwards the file is no longer in the page cache where the system
// can be asked for that, so that whoever reads it next reads the disk.
func (f *files) PutBlobInPath(_ context.Context, dir, path string, data blob.Bytes, opts blob.PutOptions) error {
	switch {
	case opts.HasRetentionOptions(), opts.DoNotRecreate, !opts.SetModTime.IsZero():
		return blob.ErrUnsupportedPutBlobOption
	}
	if err := f.makeDir(dir); err != nil {
		return err
	}
	tmp := fmt.Sprintf("%s.tmp.%s", path, rand.Text())
	if err := writeFile(tmp, data); err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(tmp)))
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	if opts.GetModTime != nil {
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		*opts.GetModTime = st.ModTime()
	}
	return nil
}

// writeFile writes a new file durably.
func writeFile(path string, data blob.Bytes) error {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	_, err = data.WriteTo(out)
	if err == nil {
		err = out.Sync()
	}
	if err == nil {
		dropCache(out)
	}
	return errors.Join(err, out.Close())
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// makeDir makes a directory below the root and everything above it, durably.
func (f *files) makeDir(dir string) error {
	dir = filepath.Clean(dir)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known[dir] || dir == filepath.Clean(f.root) {
		return nil
	}
	var above []string // from dir up to what is there
	for d := dir; d != filepath.Clean(f.root) && !f.known[d]; d = filepath.Dir(d) {
		above = append(above, d)
	}
	for i := len(above) - 1; i >= 0; i-- {
		if err := os.Mkdir(above[i], dirMode); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := syncDir(filepath.Dir(above[i])); err != nil {
			return err
		}
		f.known[above[i]] = true
	}
	return nil
}

// DeleteBlobInPath implements sharded.Impl. A blob that is not there is no
// error.
func (f *files) DeleteBlobInPath(_ context.Context, _, path string) error {
	return ignoreMissing(os.Remove(path))
}

// ReadDir implements sharded.Impl.
func (f *files) ReadDir(_ context.Context, dir string) ([]os.FileInfo, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	infos := make([]os.FileInfo, 0, len(entries))
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted since the directory was read
		}
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}
