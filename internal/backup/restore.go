package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"cowl/internal/backup/repo"
	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// RestoreOptions say which image goes where.
type RestoreOptions struct {
	Image string // path of an image of a volume; its manifest stands beside it
	// Repo and Backup are where the image is instead, of a backup in a
	// repository; Image is then how it is called.
	Repo   *repo.Repo
	Backup *repo.Backup

	LV string // within the group; it exists unless Create says otherwise
	// Create makes the volume, of the size of the one that was backed up.
	Create bool
	// InPlace reads the volume first, and writes only what differs.
	InPlace bool
	// Force writes an image that is damaged or has no manifest.
	Force bool
	// DryRun checks target and image, and writes nothing.
	DryRun bool
	Reporter
}

// RestoreReport is what a restore did. Sizes are in bytes.
type RestoreReport struct {
	Image       string `json:"image"`
	VG          string `json:"vg"`
	LV          string `json:"lv"`
	ImageBytes  int64  `json:"image_bytes"`
	VolumeBytes int64  `json:"volume_bytes"`
	// UntouchedBytes at the volume's end are as they were: the image is smaller.
	UntouchedBytes int64    `json:"untouched_bytes"`
	ReadBytes      int64    `json:"read_bytes"`    // from the image; holes are not read
	WrittenBytes   int64    `json:"written_bytes"` // to the volume
	Created        bool     `json:"created"`       // the volume was made for it
	SHA256         string   `json:"sha256"`        // of what was written
	ImageVerified  bool     `json:"image_verified"`
	Verified       bool     `json:"verified"` // the volume, read back
	Seconds        float64  `json:"seconds"`
	Rate           float64  `json:"bytes_per_second"`
	Notes          []string `json:"notes,omitempty"`
}

// restore is one restore on its way.
type restore struct {
	g      manager.Group
	o      RestoreOptions
	image  block.Device
	want   *Image   // nil without a usable manifest
	valid  []string // the target's snapshots that had not overflowed before
	report *RestoreReport
}

// Restore writes a volume's image over the beginning of an existing volume, which
// nobody may have open. The image is checked before the first byte is
// written; afterwards the volume is flushed, read back and compared. That
// reading goes through the volume as any user's does, so the caches below it
// may answer.
//
// After an error that came once writing had begun, the volume holds a mixture
// of old and new, and the error says so.
func Restore(ctx context.Context, g manager.Group, o RestoreOptions) (*RestoreReport, error) {
	started := time.Now()
	r := &restore{g: g, o: o, report: &RestoreReport{Image: o.Image, LV: o.LV}}
	if err := r.openImage(ctx); err != nil {
		return nil, err
	}
	defer r.image.Close()
	// Before the long reading: what can be known at once.
	st, err := g.Status(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.checkName(st); err != nil {
		return nil, err
	}
	if !o.Create {
		if err := r.checkTarget(st, 0); err != nil {
			return nil, err
		}
		// What is not overwritten cannot be lost to a damaged image.
		if err := r.checkImage(ctx); err != nil {
			return nil, err
		}
	}
	if o.DryRun {
		return r.report, nil
	}
	if err := r.make(ctx); err != nil {
		return nil, err
	}
	if err := r.write(ctx); err != nil {
		return nil, errors.Join(err, r.unmake(ctx))
	}
	r.report.Seconds = time.Since(started).Seconds()
	r.report.Rate = float64(r.report.ImageBytes) / max(r.report.Seconds, 1e-9)
	return r.report, nil
}

// openImage opens the image, wherever it is.
func (r *restore) openImage(ctx context.Context) error {
	if r.o.Repo == nil {
		format, err := r.loadManifest()
		if err != nil {
			return err
		}
		image, err := openContent(r.o.Image, format)
		if err != nil {
			return err
		}
		r.image, r.report.ImageBytes = image, image.Size()
		return nil
	}
	image, _, err := r.o.Repo.Image(ctx, r.o.Backup)
	if err != nil {
		return err
	}
	r.image, r.report.ImageBytes = image, image.Size()
	return nil
}

// checkName sees to it that the volume is there, or is not where it is to be
// made.
func (r *restore) checkName(st *manager.Status) error {
	r.report.VG = st.Group.Name
	_, err := st.Group.FindLV(r.o.LV)
	switch {
	case r.o.Create && err == nil:
		return errs.WithHint(errs.E(errs.Exists, "%s/%s exists already", st.Group.Name, r.o.LV), "Leave --create out to write over it.")
	case !r.o.Create && errs.Is(err, errs.NotFound):
		return errs.WithHint(err, "--create makes it, as large as the one that was backed up.")
	case !r.o.Create:
		return err
	}
	return nil
}

// make makes the volume, if it is to be made.
func (r *restore) make(ctx context.Context) error {
	if !r.o.Create {
		return nil
	}
	res, err := r.g.CreateLV(ctx, volume.LVSpec{Name: r.o.LV, Size: volume.Size{Bytes: r.report.ImageBytes}})
	if err != nil {
		return err
	}
	r.report.Created = true
	r.report.Notes = append(r.report.Notes, res.Notes...)
	return nil
}

// unmake removes the volume that was made for an image that did not come.
func (r *restore) unmake(ctx context.Context) error {
	if !r.report.Created {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	if _, err := r.g.RemoveLVs(ctx, []string{r.o.LV}); err != nil {
		return fmt.Errorf("volume %s/%s was left behind (%w); remove it with: cowl lvremove -y %[1]s/%[2]s", r.report.VG, r.o.LV, err)
	}
	return nil
}

func (r *restore) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.report.Notes = append(r.report.Notes, text)
	r.o.note(text)
}

// unlessForced turns a doubt about the image into a note, or into an error
// that names the option.
func (r *restore) unlessForced(doubt error) error {
	if !r.o.Force {
		return errs.WithHint(doubt, "--force writes it all the same.")
	}
	r.note("%v", doubt)
	return nil
}

// loadManifest reads what the image should be. One that has no manifest is what
// it looks like.
func (r *restore) loadManifest() (Format, error) {
	if _, err := os.Stat(r.o.Image); err != nil {
		return "", err
	}
	m, _, err := readManifest(r.o.Image)
	if errs.Is(err, errs.NotFound) || errs.Is(err, errs.Corrupt) {
		if err := r.unlessForced(err); err != nil {
			return "", err
		}
		is, err := looksLikeQcow2(r.o.Image)
		if err != nil || !is {
			return Raw, err
		}
		r.note("%s begins as a qcow2 image does, and is read as one", r.o.Image)
		return Qcow2, nil
	}
	if err != nil {
		return "", err
	}
	if m.Image.Format == Tar {
		return "", errs.WithHint(errs.E(errs.Unsupported, "%s holds files (format %s), not a volume's image", r.o.Image, m.Image.Format),
			"Make a file system on the volume, mount it, and unpack: tar -C MOUNTPOINT --numeric-owner --xattrs --xattrs-include='*' -xpf %s", r.o.Image)
	}
	r.want = &m.Image
	return m.Image.Format, nil
}

// checkTarget refuses volumes that the image must not be written to. opens
// is how many openers are known to be ours.
func (r *restore) checkTarget(st *manager.Status, opens int) error {
	vg := st.Group
	lv, err := vg.FindLV(r.o.LV)
	if err != nil {
		return err
	}
	id := vg.Name + "/" + lv.Name
	r.report.VG = vg.Name
	snap, isSnapshot := vg.SnapshotOf(lv)
	size := vg.LVSize(lv).Bytes()
	if isSnapshot {
		size = vg.ExtentBytes(snap.Size())
	}
	_, merging := vg.MergingInto(lv)
	rt := st.LVs[lv.Name]
	switch {
	case isSnapshot && snap.Segment.Merging || merging:
		return errs.E(errs.Conflict, "%s is being merged", id)
	case lv.ReadOnly() || rt.ReadOnly:
		return errs.WithHint(errs.E(errs.Conflict, "%s is read-only", id), "Make it writable with: cowl lvchange -p rw %s", id)
	case size < r.report.ImageBytes:
		return errs.E(errs.NoSpace, "%s has %d bytes, the image %d: it does not fit", id, size, r.report.ImageBytes)
	case rt.Opens > opens:
		return errs.WithHint(errs.E(errs.Busy, "%s is in use (%d open)", id, rt.Opens-opens), "Unmount it, or disconnect the NBD clients that have it open.")
	}
	return nil
}

// checkImage compares the image with its manifest.
func (r *restore) checkImage(ctx context.Context) error {
	if r.o.Repo != nil {
		return r.checkStored(ctx)
	}
	if r.want == nil {
		return nil
	}
	found, err := checkFile(ctx, r.o.Image, r.want, r.o.phase(Verifying, r.want.Bytes))
	if err != nil {
		return err
	}
	if len(found) == 0 {
		r.report.ImageVerified = true
		return nil
	}
	if err := r.unlessForced(errDamaged("image "+r.o.Image, found)); err != nil {
		return err
	}
	r.want = nil // there is nothing left to hold the volume against but what was read
	return nil
}

// checkStored reads a stored image before anything is overwritten with it.
// Force does not help one that is damaged: there are no bytes to write.
func (r *restore) checkStored(ctx context.Context) error {
	_, err := r.o.Repo.VerifyBackup(ctx, r.o.Backup, repo.VerifyOptions{Progress: r.o.absolute(Verifying)})
	r.report.ImageVerified = err == nil
	return err
}

// write opens the volume and fills it.
func (r *restore) write(ctx context.Context) error {
	dev, err := r.g.Open(ctx, r.o.LV, false)
	if err != nil {
		return err
	}
	defer dev.Close()
	// Somebody may have opened it since the first look.
	st, err := r.g.Status(ctx)
	if err != nil {
		return err
	}
	if err := r.checkTarget(st, 1); err != nil {
		return err
	}
	if dev.Size() < r.report.ImageBytes {
		return errs.E(errs.NoSpace, "%s/%s has %d bytes, the image %d: it does not fit", r.report.VG, r.o.LV, dev.Size(), r.report.ImageBytes)
	}
	r.report.VolumeBytes = dev.Size()
	r.report.UntouchedBytes = dev.Size() - r.report.ImageBytes
	r.warnSnapshots(st)
	if err := r.fill(ctx, dev); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%v)", ErrInterrupted, context.Cause(ctx))
		}
		err = fmt.Errorf("restore of %s/%s did not end: %w", r.report.VG, r.o.LV, err)
		if r.report.Created {
			return err
		}
		return errs.WithHint(err, "The volume now holds a mixture of old and new: run the restore again.")
	}
	return r.checkAfter(ctx)
}

// warnSnapshots says what writing does to the snapshots of the volume: they
// keep the old content, each in its own store.
func (r *restore) warnSnapshots(st *manager.Status) {
	lv := st.Group.LV(r.o.LV)
	for _, s := range st.Group.SnapshotsOf(lv) {
		rt := st.LVs[s.Cow.Name]
		if rt.Cow == nil || rt.Cow.Invalid {
			continue
		}
		r.valid = append(r.valid, s.Cow.Name)
		if free := rt.Cow.Total.Bytes() - rt.Cow.Allocated.Bytes(); free < r.report.ImageBytes {
			r.note("%s/%s is a snapshot of %s and has %s left for what is overwritten; it overflows if that is more",
				r.report.VG, s.Cow.Name, r.o.LV, bytesText(free))
		}
	}
}

// fill writes, flushes and reads back.
func (r *restore) fill(ctx context.Context, dev block.Device) error {
	size := r.report.ImageBytes
	to := &volumeSink{dev: dev, compare: r.o.InPlace}
	d, read, err := copyDevice(ctx, r.image, size, to, r.o.phase(Writing, size))
	if err != nil {
		return err
	}
	r.report.ReadBytes, r.report.WrittenBytes, r.report.SHA256 = read, to.written.Load(), d.whole
	if r.want != nil && d.whole != r.want.content().SHA256 {
		return errs.E(errs.Corrupt, "image %s changed while it was read", r.o.Image)
	}
	if err := dev.Flush(); err != nil {
		return err
	}
	found, err := checkRanges(ctx, dev, size, RangeBytes, d.ranges, r.o.phase(Checking, size))
	if err != nil {
		return err
	}
	return errDamaged("volume as read back", found)
}

// checkAfter looks at what became of snapshots: the target itself, if it is
// one, and those that it has.
func (r *restore) checkAfter(ctx context.Context) error {
	st, err := r.g.Status(ctx)
	if err != nil {
		return err
	}
	invalid := func(lv *volume.LV) bool {
		rt := st.LVs[lv.Name]
		return rt.Cow != nil && rt.Cow.Invalid
	}
	lv, err := st.Group.FindLV(r.o.LV)
	if err != nil {
		return err
	}
	if invalid(lv) {
		return errs.E(errs.NoSpace, "snapshot %s/%s overflowed while it was written: its content is lost", r.report.VG, lv.Name)
	}
	for _, s := range st.Group.SnapshotsOf(lv) {
		if invalid(s.Cow) && slices.Contains(r.valid, s.Cow.Name) {
			r.note("snapshot %s/%s has overflowed", r.report.VG, s.Cow.Name)
		}
	}
	r.report.Verified = true
	return nil
}
