package backup

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"cowl/internal/errs"
)

// VerifyReport is what Verify found.
type VerifyReport struct {
	Image    string    `json:"image"`
	Bytes    int64     `json:"bytes"`
	Manifest *Manifest `json:"-"`
	Good     bool      `json:"good"`
	Damage   []Damage  `json:"damage,omitempty"` // of the image
	// Faults are about the files beside the image.
	Faults  []string `json:"faults,omitempty"`
	Seconds float64  `json:"seconds"`
}

// Verify checks an image, its manifest and its checksum file against each
// other. A report with Good false comes with an error of kind errs.Corrupt.
func Verify(ctx context.Context, image string, progress Reporter) (*VerifyReport, error) {
	started := time.Now()
	m, text, err := readManifest(image)
	if err != nil {
		return nil, err
	}
	v := &VerifyReport{Image: image, Bytes: m.Image.Bytes, Manifest: m}
	if v.Damage, err = checkFile(ctx, image, &m.Image, progress.phase(Verifying, m.Image.Bytes)); err != nil {
		return nil, err
	}
	err = errDamaged("image "+image, v.Damage)
	if fault := checkChecksums(image, m, text); fault != nil {
		v.Faults = append(v.Faults, fault.Error())
		err = errors.Join(err, fault)
	}
	v.Good = err == nil
	v.Seconds = time.Since(started).Seconds()
	return v, err
}

// checkChecksums compares the file for sha256sum with what it should say. The
// image may have been renamed together with what stands beside it: then the
// names in it are the old ones, and still right.
func checkChecksums(image string, m *Manifest, manifestText []byte) error {
	path := image + checksumSuffix
	got, err := readLimited(path, maxManifest)
	if err != nil {
		return err
	}
	if string(got) != string(m.checksums(manifestText)) {
		return errs.E(errs.Corrupt, "checksum file %s does not say what manifest %s does", path, filepath.Base(image)+manifestSuffix)
	}
	return nil
}
