package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"cowl/internal/backup/repo"
	"cowl/internal/errs"
)

// ExportOptions say which stored image is written into a file.
type ExportOptions struct {
	Repo   *repo.Repo
	Backup *repo.Backup
	Image  string // how the image is called
	File   string // does not exist unless Force says otherwise
	Force  bool
	DryRun bool
	Reporter

	open func(path string) (outputFile, error)
}

// ExportReport is what an export did. Sizes are in bytes.
type ExportReport struct {
	Image       string  `json:"image"`
	File        string  `json:"file"`
	Bytes       int64   `json:"bytes"`
	ReadBytes   int64   `json:"read_bytes"`
	StoredBytes int64   `json:"stored_bytes"` // what the file takes on disk
	SHA256      string  `json:"sha256"`
	Verified    bool    `json:"verified"`
	Seconds     float64 `json:"seconds"`
	Rate        float64 `json:"bytes_per_second"`
}

// Export writes a stored image into a sparse file. As with a backup into a
// directory, the file has its name once it was read back and compared; until
// then it is hidden beside it, and gone after an error.
func Export(ctx context.Context, o ExportOptions) (*ExportReport, error) {
	started := time.Now()
	if o.open == nil {
		o.open = openPartial
	}
	image, _, err := o.Repo.Image(ctx, o.Backup)
	if err != nil {
		return nil, err
	}
	defer image.Close()
	r := &ExportReport{Image: o.Image, File: o.File, Bytes: image.Size()}
	if _, err := os.Lstat(o.File); err == nil && !o.Force {
		return nil, errs.WithHint(errs.E(errs.Exists, "%s exists already", o.File), "--force replaces it.")
	}
	if o.DryRun {
		return r, checkDir(filepath.Dir(o.File))
	}
	dir, name := filepath.Split(o.File)
	tmp := partial(dir, name)
	f, err := o.open(tmp)
	if errors.Is(err, os.ErrExist) {
		return nil, errs.WithHint(errs.E(errs.Busy, "%s is being written, or was left by a restore that was killed", tmp), "Remove it if nobody writes it: rm '%s'", tmp)
	}
	if err != nil {
		return nil, err
	}
	err = r.fill(ctx, o, f, image)
	if err := errors.Join(err, f.Close()); err != nil {
		os.Remove(tmp)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("restore of %s %w (%v): no file is kept", o.Image, ErrInterrupted, context.Cause(ctx))
		}
		return nil, err
	}
	if err := errors.Join(os.Rename(tmp, o.File), syncDir(filepath.Clean(dir))); err != nil {
		return nil, err
	}
	r.Seconds = time.Since(started).Seconds()
	r.Rate = float64(r.Bytes) / max(r.Seconds, 1e-9)
	return r, nil
}

// fill writes the partial file, and compares what the disk holds with what was
// read.
func (r *ExportReport) fill(ctx context.Context, o ExportOptions, f outputFile, image *repo.Image) error {
	if err := f.Truncate(r.Bytes); err != nil {
		return err
	}
	d, read, err := copyDevice(ctx, image, r.Bytes, &fileSink{w: f}, o.phase(Reading, r.Bytes))
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	dir, name := filepath.Split(o.File)
	tmp := partial(dir, name)
	found, err := checkFile(ctx, tmp, &Image{Bytes: r.Bytes, RangeBytes: RangeBytes, Ranges: d.ranges}, o.phase(Verifying, r.Bytes))
	if err == nil {
		err = errDamaged("file as read back", found)
	}
	if err != nil {
		return err
	}
	st, err := os.Stat(tmp)
	if err != nil {
		return err
	}
	r.ReadBytes, r.SHA256, r.StoredBytes, r.Verified = read, d.whole, allocated(st), true
	return nil
}
