package backup

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Listed is a backup in a directory.
type Listed struct {
	Image    string    `json:"image"` // path
	Format   Format    `json:"format"`
	VG       string    `json:"vg"`
	LV       string    `json:"lv"`
	VGUUID   string    `json:"vg_uuid"`
	LVUUID   string    `json:"lv_uuid"`
	Time     time.Time `json:"time"` // the instant that it shows
	Finished time.Time `json:"finished"`
	Instant  string    `json:"instant,omitempty"` // as Instant.ID
	Domain   string    `json:"domain,omitempty"`  // as Manifest.Domain
	Bytes    int64     `json:"bytes"`             // of the volume, or of an archive
	Stored   int64     `json:"stored_bytes"`      // what the image takes on disk
	// Fault is why the manifest cannot be used, "" if it can.
	Fault string `json:"fault,omitempty"`
}

// ListDir returns the backups in a directory, oldest first. An image whose
// manifest is damaged is listed with its fault; one without a manifest is none
// of ours.
func ListDir(dir string) ([]*Listed, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []*Listed
	for _, e := range entries {
		image, ok := strings.CutSuffix(e.Name(), manifestSuffix)
		if !ok || !isImageName(image) {
			continue
		}
		l, err := listImage(filepath.Join(dir, image))
		if errors.Is(err, os.ErrNotExist) {
			continue // the manifest of an image that was never finished, or was deleted
		}
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b *Listed) int {
		// A snapshot's time is in whole seconds.
		return cmp.Or(a.Time.Compare(b.Time), a.Finished.Compare(b.Finished), strings.Compare(a.Image, b.Image))
	})
	return out, nil
}

func isImageName(name string) bool {
	return slices.ContainsFunc(endings, func(e string) bool { return strings.HasSuffix(name, e) })
}

func listImage(path string) (*Listed, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	l := &Listed{Image: path, Bytes: st.Size(), Stored: allocated(st), Time: st.ModTime()}
	m, _, err := readManifest(path)
	if err != nil {
		l.Fault = err.Error()
		return l, nil
	}
	l.Format, l.Bytes = m.Image.Format, m.Image.content().Bytes
	l.VG, l.LV, l.VGUUID, l.LVUUID = m.Source.VG, m.Source.LV, m.Source.VGUUID, m.Source.LVUUID
	l.Domain = m.Domain
	l.Time, l.Finished = m.Snapshot.Time, m.Finished
	if m.Instant != nil {
		l.Instant = m.Instant.ID
	}
	return l, nil
}

// RemoveImage deletes an image with what stands beside it. The image goes
// first: what a crash leaves is no backup.
func RemoveImage(path string) error {
	domain := ""
	if m, _, err := readManifest(path); err == nil {
		domain = m.Domain
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	for _, suffix := range []string{manifestSuffix, checksumSuffix} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return errors.Join(removeDomain(filepath.Dir(path), domain), syncDir(filepath.Dir(path)))
}
