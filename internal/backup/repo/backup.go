package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kopia/kopia/fs"
	kopia "github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/manifest"
	"github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot"
	"github.com/kopia/kopia/snapshot/snapshotfs"

	"cowl/internal/errs"
)

// Backup is a backup as the list of them has it. What is not in kopia's
// manifest itself stands in its tags, so that listing reads manifests only.
type Backup struct {
	ID           string    `json:"id"`
	VG           string    `json:"vg"`
	LV           string    `json:"lv"`
	VGUUID       string    `json:"vg_uuid"`
	LVUUID       string    `json:"lv_uuid"`
	SnapshotUUID string    `json:"snapshot_uuid"`
	Time         time.Time `json:"time"` // the instant that the image shows
	Finished     time.Time `json:"finished"`
	Host         string    `json:"host"`
	User         string    `json:"user"`
	Bytes        int64     `json:"bytes"`
	Instant      string    `json:"instant,omitempty"` // as Instant.ID
	Base         string    `json:"base,omitempty"`    // "" if everything was read
	Kept         bool      `json:"kept,omitempty"`    // its snapshot was, for the next backup
	Read         int64     `json:"read_bytes"`
	Stored       int64     `json:"stored_bytes"` // by the time the manifest was written
	Pinned       bool      `json:"pinned,omitempty"`

	root *snapshot.Manifest
}

// Tags of a kopia manifest. kopia's own command line shows those that begin so.
const (
	tagPrefix   = "tag:cowl-"
	tagVG       = tagPrefix + "vg"
	tagLV       = tagPrefix + "lv"
	tagVGUUID   = tagPrefix + "vg-uuid"
	tagLVUUID   = tagPrefix + "lv-uuid"
	tagSnapshot = tagPrefix + "snapshot-uuid"
	tagInstant  = tagPrefix + "instant"
	tagBase     = tagPrefix + "base"
	tagKept     = tagPrefix + "kept"
	tagRead     = tagPrefix + "read"
	tagStored   = tagPrefix + "stored"
)

// File is a small file that is kept beside an image.
type File struct {
	Name string
	Data []byte
}

// fileMode is that of the files in a backup's directory.
const fileMode = 0o600

// Store stores a source as a backup, with what rec says of it and small files
// beside the image. Either it returns a backup that is committed and whose
// every blob was proved, or there is none; what was stored until then is
// found again by the next.
//
// rec has everything but Image, Stats and Finished, which are filled in.
func (r *Repo) Store(ctx context.Context, src Source, rec *Record, files []File, o StoreOptions) (*Backup, error) {
	before := r.Written()
	var (
		b *Backup
		s *saver
	)
	err := kopia.DirectWriteSession(ctx, r.rep, kopia.WriteSessionOptions{Purpose: "cowl backup"},
		func(ctx context.Context, w kopia.DirectRepositoryWriter) (err error) {
			s = &saver{r: r, w: w}
			defer func() {
				if err != nil && ctx.Err() != nil {
					s.keep(ctx)
				}
			}()
			root, err := s.save(ctx, src, o)
			if err != nil {
				return err
			}
			rec.Finished = time.Now().UTC()
			rec.Image.Layout, rec.Image.Object = s.layout, root.String()
			rec.Image.ZeroSegment, rec.Image.ZeroGroup = s.zero.Segment.String(), s.zero.Group.String()
			rec.Stats.Read, rec.Stats.Changed = s.read.Load(), s.changed.Load()
			// Everything that the manifest will refer to is in the store, proved, and
			// has its checksums there, before the manifest exists.
			if err := w.Flush(ctx); err != nil {
				return err
			}
			if err := r.flushSums(ctx); err != nil {
				return err
			}
			if o.BeforeCommit != nil {
				if err := o.BeforeCommit(ctx); err != nil {
					return err
				}
			}
			rec.Stats.Written = r.Written() - before
			b, err = r.commit(ctx, w, rec, root, files)
			return err
		})
	if err != nil {
		return nil, explain(ctx, err)
	}
	if err := r.flushSums(ctx); err != nil {
		return nil, err
	}
	rec.Stats.Written = r.Written() - before
	return b, nil
}

// commit writes the backup's directory and manifest. They are committed when
// the session is.
func (r *Repo) commit(ctx context.Context, w kopia.RepositoryWriter, rec *Record, root object.ID, files []File) (*Backup, error) {
	rec.Format, rec.Version = recordFormat, recordVersion
	text, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return nil, err
	}
	instant := fs.UTCTimestampFromTime(rec.Snapshot.Time)
	var dir snapshotfs.DirManifestBuilder
	entry := func(name string, size int64, id object.ID) {
		dir.AddEntry(&snapshot.DirEntry{Name: name, Type: snapshot.EntryTypeFile, Permissions: fileMode, FileSize: size, ModTime: instant, ObjectID: id})
	}
	entry(rec.Image.File, rec.Image.Bytes, root)
	for _, f := range append([]File{{recordFile, append(text, '\n')}}, files...) {
		id, err := putFile(ctx, w, f)
		if err != nil {
			return nil, err
		}
		entry(f.Name, int64(len(f.Data)), id)
	}
	built := dir.Build(instant, "")
	id, err := snapshotfs.WriteDirManifest(ctx, w, "", built, indexCompressor)
	if err != nil {
		return nil, err
	}
	client := r.rep.ClientOptions()
	man := &snapshot.Manifest{
		Source:      snapshot.SourceInfo{Host: client.Hostname, UserName: client.Username, Path: "/dev/" + rec.Source.VG + "/" + rec.Source.LV},
		Description: "volume " + rec.Source.VG + "/" + rec.Source.LV,
		StartTime:   instant,
		EndTime:     fs.UTCTimestampFromTime(rec.Finished),
		RootEntry:   &snapshot.DirEntry{Type: snapshot.EntryTypeDirectory, Permissions: 0o700, ModTime: instant, ObjectID: id, DirSummary: built.Summary},
		Tags: map[string]string{
			tagVG: rec.Source.VG, tagLV: rec.Source.LV, tagVGUUID: rec.Source.VGUUID, tagLVUUID: rec.Source.LVUUID,
			tagSnapshot: rec.Snapshot.LVUUID, tagRead: strconv.FormatInt(rec.Stats.Read, 10), tagStored: strconv.FormatInt(rec.Stats.Written, 10),
		},
	}
	man.Stats.TotalFileSize, man.Stats.TotalFileCount, man.Stats.TotalDirectoryCount = built.Summary.TotalFileSize, int32(built.Summary.TotalFileCount), 1
	if rec.Instant != nil {
		man.Tags[tagInstant] = rec.Instant.ID
	}
	if rec.Base != nil {
		man.Tags[tagBase] = rec.Base.Backup
	}
	if rec.Snapshot.Kept {
		man.Tags[tagKept] = "true"
	}
	if _, err := snapshot.SaveSnapshot(ctx, w, man); err != nil {
		return nil, err
	}
	return describe(man), nil
}

// putFile stores a small file.
func putFile(ctx context.Context, w kopia.RepositoryWriter, f File) (object.ID, error) {
	o := w.NewObjectWriter(ctx, object.WriterOptions{Compressor: compressor, MetadataCompressor: indexCompressor})
	defer o.Close()
	if _, err := o.Write(f.Data); err != nil {
		return object.EmptyID, err
	}
	return o.Result()
}

// describe makes a line of the list of a manifest, nil of one that is not
// cowl's.
func describe(m *snapshot.Manifest) *Backup {
	if m.RootEntry == nil || m.Tags[tagLVUUID] == "" || m.IncompleteReason != "" {
		return nil
	}
	b := &Backup{
		ID: string(m.ID), VG: m.Tags[tagVG], LV: m.Tags[tagLV], VGUUID: m.Tags[tagVGUUID], LVUUID: m.Tags[tagLVUUID],
		SnapshotUUID: m.Tags[tagSnapshot], Time: m.StartTime.ToTime().UTC(), Finished: m.EndTime.ToTime().UTC(),
		Host: m.Source.Host, User: m.Source.UserName, Instant: m.Tags[tagInstant], Base: m.Tags[tagBase], Kept: m.Tags[tagKept] == "true",
		Pinned: len(m.Pins) > 0, root: m,
	}
	b.Read, _ = strconv.ParseInt(m.Tags[tagRead], 10, 64)
	b.Stored, _ = strconv.ParseInt(m.Tags[tagStored], 10, 64)
	if s := m.RootEntry.DirSummary; s != nil {
		b.Bytes = s.TotalFileSize // with the small files; Record has the image's alone
	}
	return b
}

// List returns the backups, oldest first.
func (r *Repo) List(ctx context.Context) ([]*Backup, error) { return r.list(ctx, nil) }

// ListVolume returns the backups of a volume, by its UUID, oldest first.
func (r *Repo) ListVolume(ctx context.Context, lvUUID string) ([]*Backup, error) {
	return r.list(ctx, map[string]string{tagLVUUID: lvUUID})
}

// list returns the backups whose manifests have the tags.
func (r *Repo) list(ctx context.Context, tags map[string]string) ([]*Backup, error) {
	ids, err := snapshot.ListSnapshotManifests(ctx, r.rep, nil, tags)
	if err != nil {
		return nil, r.damage(ctx, err)
	}
	var out []*Backup
	for _, id := range ids {
		m, err := snapshot.LoadSnapshot(ctx, r.rep, id)
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", id, r.damage(ctx, err))
		}
		if b := describe(m); b != nil {
			out = append(out, b)
		}
	}
	slices.SortFunc(out, func(a, b *Backup) int {
		if c := a.Time.Compare(b.Time); c != 0 {
			return c
		}
		return a.Finished.Compare(b.Finished)
	})
	return out, nil
}

// Find returns the backup that a person means: by ID or the beginning of one,
// by VG/LV for the latest of a volume, or "latest" where all are of one volume:
// of several it would be restored over another one by mistake.
func (r *Repo) Find(ctx context.Context, name string) (*Backup, error) {
	all, err := r.List(ctx)
	if err != nil {
		return nil, err
	}
	b, err := find(all, name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.Name(), err)
	}
	return b, nil
}

// shortID is the least of an ID that names a backup.
const shortID = 4

func find(all []*Backup, name string) (*Backup, error) {
	var found []*Backup
	for _, b := range slices.Backward(all) {
		switch {
		case name == "latest":
			if err := onlyOf(b, all); err != nil {
				return nil, err
			}
			return b, nil
		case name == b.VG+"/"+b.LV, name == b.ID:
			return b, nil
		case len(name) >= shortID && strings.HasPrefix(b.ID, name):
			found = append(found, b)
		}
	}
	switch len(found) {
	case 0:
		return nil, errs.WithHint(errs.E(errs.NotFound, "no backup %q", name), "cowl list shows which there are.")
	case 1:
		return found[0], nil
	}
	return nil, errs.E(errs.Usage, "%d backups begin with %q", len(found), name)
}

// onlyOf returns an error if there are backups of other volumes than b's.
func onlyOf(b *Backup, all []*Backup) error {
	of := b.VG + "/" + b.LV
	for _, other := range all {
		if also := other.VG + "/" + other.LV; also != of {
			return errs.WithHint(errs.E(errs.Usage, "\"latest\" is of %s, and there are backups of %s as well", of, also),
				"TARGET::%s is the latest backup of that volume.", also)
		}
	}
	return nil
}

// ReadFile returns a small file that is kept beside the image.
func (r *Repo) ReadFile(ctx context.Context, b *Backup, name string) ([]byte, error) {
	dir, err := r.readDir(ctx, b)
	if err != nil {
		return nil, err
	}
	for _, e := range dir.Entries {
		if e.Name == name {
			return r.readSmall(ctx, e.ObjectID, maxRecord)
		}
	}
	return nil, errs.E(errs.NotFound, "backup %s has no file %s", b.ID, name)
}

// readDir reads a backup's directory.
func (r *Repo) readDir(ctx context.Context, b *Backup) (*snapshot.DirManifest, error) {
	text, err := r.readSmall(ctx, b.root.RootObjectID(), maxRecord)
	if err != nil {
		return nil, fmt.Errorf("directory of backup %s: %w", b.ID, err)
	}
	dir := new(snapshot.DirManifest)
	if err := json.Unmarshal(text, dir); err != nil {
		return nil, errs.E(errs.Corrupt, "directory of backup %s: %w", b.ID, err)
	}
	return dir, nil
}

// readSmall reads an object of at most limit bytes.
func (r *Repo) readSmall(ctx context.Context, id object.ID, limit int64) ([]byte, error) {
	o, err := r.rep.OpenObject(ctx, id)
	if err != nil {
		return nil, r.damage(ctx, r.locate(ctx, id, err))
	}
	defer o.Close()
	if o.Length() > limit {
		return nil, errs.E(errs.Corrupt, "object %s has %d bytes, the most is %d", id, o.Length(), limit)
	}
	var text bytes.Buffer
	_, err = io.Copy(&text, io.LimitReader(o, limit))
	return text.Bytes(), r.damage(ctx, err)
}

// Record returns what a backup says of its image.
func (r *Repo) Record(ctx context.Context, b *Backup) (*Record, error) {
	text, err := r.ReadFile(ctx, b, recordFile)
	if err != nil {
		return nil, err
	}
	rec, err := decodeRecord(text)
	if err != nil {
		return nil, fmt.Errorf("record of backup %s: %w", b.ID, err)
	}
	return rec, nil
}

// Image opens a backup's image for reading.
func (r *Repo) Image(ctx context.Context, b *Backup) (*Image, *Record, error) {
	rec, err := r.Record(ctx, b)
	if err != nil {
		return nil, nil, err
	}
	root, err := object.ParseID(rec.Image.Object)
	if err != nil {
		return nil, nil, errs.E(errs.Corrupt, "record of backup %s: object %q: %w", b.ID, rec.Image.Object, err)
	}
	m, err := r.openImage(ctx, root, rec.Image.Layout, rec.Image.zeroes())
	if err != nil {
		return nil, nil, fmt.Errorf("image of backup %s: %w", b.ID, err)
	}
	return m, rec, nil
}

// Delete takes backups off the list. What only they refer to stays in the
// store until Maintain.
func (r *Repo) Delete(ctx context.Context, backups []*Backup) error {
	return r.write(ctx, "forget", func(ctx context.Context, w kopia.DirectRepositoryWriter) error {
		for _, b := range backups {
			if err := w.DeleteManifest(ctx, manifest.ID(b.ID)); err != nil {
				return fmt.Errorf("delete backup %s: %w", b.ID, err)
			}
		}
		return nil
	})
}
