package repo

import (
	"encoding/json"
	"time"

	"github.com/kopia/kopia/repo/object"

	"cowl/internal/errs"
)

// What a record says of itself.
const (
	recordFormat  = "cowl backup record"
	recordVersion = 1
	recordFile    = "cowl.json"
	maxRecord     = 1 << 20
)

// Record is what a backup says of its image. It is stored beside it, as
// cowl.json.
type Record struct {
	Format   string    `json:"format"`
	Version  int       `json:"version"`
	Tool     string    `json:"tool"`
	Source   Origin    `json:"source"`
	Snapshot Snapshot  `json:"snapshot"`
	Image    ImageInfo `json:"image"`
	// Instant is what the backup shares with those of other volumes, nil of a
	// snapshot that nobody knows to belong to one.
	Instant *Instant `json:"instant,omitempty"`
	// Base is the backup that this one was made from, nil if everything was
	// read.
	Base     *Base     `json:"base,omitempty"`
	Stats    Stats     `json:"stats"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"` // when the last byte was read
}

// Origin is the volume that was backed up.
type Origin struct {
	VG         string `json:"vg"`
	VGUUID     string `json:"vg_uuid"`
	LV         string `json:"lv"`
	LVUUID     string `json:"lv_uuid"`
	Seqno      uint64 `json:"seqno"` // of the group's metadata
	Bytes      int64  `json:"bytes"`
	FileSystem string `json:"file_system,omitempty"` // "" if none was recognised
	// Fstab has the lines of fstab(5) that mount it, as the machine had them.
	Fstab []string `json:"fstab,omitempty"`
}

// Snapshot is the instant that the image shows.
type Snapshot struct {
	LV     string    `json:"lv"`
	LVUUID string    `json:"lv_uuid"`
	Time   time.Time `json:"time"`
	Own    bool      `json:"own"`  // made by the backup
	Kept   bool      `json:"kept"` // to know by it what the next backup has to read
}

// Instant ties together the backups of volumes that show one moment: no write
// to any of them lies between.
type Instant struct {
	ID      string   `json:"id"`      // 16 hexadecimal digits
	Volumes []string `json:"volumes"` // of the group, all whose backups were begun; VG/LV if they are of several
}

// ImageInfo is how the image is stored.
type ImageInfo struct {
	File   string `json:"file"`   // its name in the backup's directory
	Object string `json:"object"` // kopia's ID of it
	Layout
	ZeroSegment string `json:"zero_segment"`
	ZeroGroup   string `json:"zero_group"`
}

// Base is what an increment was made from.
type Base struct {
	Backup       string `json:"backup"`
	SnapshotUUID string `json:"snapshot_uuid"`
	// Sampled is how many segments that had not changed were compared.
	Sampled int `json:"sampled"`
}

// Validate checks a record that comes from a repository.
func (r *Record) Validate() error {
	switch {
	case r.Format != recordFormat:
		return errs.E(errs.Corrupt, "format is %q, not %q", r.Format, recordFormat)
	case r.Version != recordVersion:
		return errs.E(errs.Unsupported, "version %d, this cowl knows version %d", r.Version, recordVersion)
	}
	for _, id := range []string{r.Image.Object, r.Image.ZeroSegment, r.Image.ZeroGroup} {
		if _, err := object.ParseID(id); err != nil {
			return errs.E(errs.Corrupt, "object %q: %w", id, err)
		}
	}
	return r.Image.Layout.Validate()
}

// decodeRecord reads a record's file.
func decodeRecord(text []byte) (*Record, error) {
	r := new(Record)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, errs.E(errs.Corrupt, "not a record: %w", err)
	}
	return r, r.Validate()
}

// zeroes returns the objects that hold only zeroes. The record is valid.
func (i *ImageInfo) zeroes() (z zeroes) {
	z.Segment, _ = object.ParseID(i.ZeroSegment)
	z.Group, _ = object.ParseID(i.ZeroGroup)
	return z
}
