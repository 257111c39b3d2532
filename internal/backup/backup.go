package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"cowl/internal/archive"
	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/quiet"
	"cowl/internal/volume"
)

// Format is what an image is. It is also the file name's ending.
type Format string

// The formats.
const (
	Raw Format = "raw" // the volume's bytes, sparse
	Tar Format = "tar" // the files of the file system in it, in pax format
	// Qcow2 is the volume's bytes in qemu's image format.
	Qcow2 Format = "qcow2"
)

// Compression is how an image is compressed: a Tar as a whole, by Gzip or Zstd; a
// Qcow2 each cluster by itself, by Zlib or Zstd.
type Compression string

// The compressions.
const (
	None Compression = "none"
	Gzip Compression = "gzip"
	Zlib Compression = "zlib"
	Zstd Compression = "zstd"
)

// compressions are those that images of a format may have.
var compressions = map[Format][]Compression{Raw: {None}, Tar: {None, Gzip, Zstd}, Qcow2: {None, Zlib, Zstd}}

// Options say what to back up, where to, and how.
type Options struct {
	LV           string      // within the group
	Dir          string      // an existing directory
	Format       Format      // "" means Raw
	Compress     Compression // of a Tar or a Qcow2; "" means none
	SnapshotSize volume.Size // zero: the group's default, which cannot overflow where there is room for that
	Tool         string      // name and version of the program, for the manifest
	// DomainXML is a file with libvirt's description of the virtual machine whose
	// disks the volumes are, "" for none. A copy that names the images goes
	// beside them. Not with Tar.
	DomainXML string
	// DryRun looks whether the backup could begin, and reports what it would do.
	DryRun bool
	Hooks  quiet.Hooks
	// NoFreeze leaves file systems that are mounted from the volume's file alone.
	NoFreeze bool
	Reporter

	open  func(path string) (outputFile, error) // tests put faults behind it
	every time.Duration                         // between two looks at the snapshot
}

// Report is what a backup did. Sizes are in bytes.
type Report struct {
	VG           string   `json:"vg"`
	LV           string   `json:"lv"`
	Snapshot     string   `json:"snapshot"`
	SnapshotKept bool     `json:"snapshot_kept"` // it was there before
	Format       Format   `json:"format"`
	Image        string   `json:"image"` // paths
	Manifest     string   `json:"manifest"`
	Checksums    string   `json:"checksums"`
	VolumeBytes  int64    `json:"volume_bytes"`
	ReadBytes    int64    `json:"read_bytes"` // from the volume; holes are not read
	DataBytes    int64    `json:"data_bytes"` // of the image, what is not zero
	ImageBytes   int64    `json:"image_bytes"`
	StoredBytes  int64    `json:"stored_bytes"` // what the image takes on disk
	SHA256       string   `json:"sha256"`
	Verified     bool     `json:"verified"`
	Instant      string   `json:"instant,omitempty"` // as Instant.ID
	Files        int64    `json:"files,omitempty"`   // entries of a tar image
	Domain       string   `json:"domain,omitempty"`  // path of the virtual machine's description
	Seconds      float64  `json:"seconds"`
	Rate         float64  `json:"bytes_per_second"`      // ImageBytes over Seconds
	SnapshotFill *float64 `json:"snapshot_fill_percent"` // highest; null if there is no store
	quiet.Pause
	// Notes are what Reporter.Note was told, and what was said of the snapshot.
	Notes []string `json:"notes,omitempty"`
}

// ErrInterrupted is in the error of a backup or restore whose context was
// cancelled. The context's own error is not, since a program that answers that
// with a mere "interrupted" would not say what became of image and volume.
var ErrInterrupted = errors.New("interrupted")

// job is one backup on its way.
type job struct {
	g   manager.Group
	o   Options
	src *source
	out *output
	m   *Manifest
	// mayMount: of an archive, that the snapshot may have to be mounted, and
	// its journal replayed into it.
	mayMount bool
	// Of a qcow2 image, its first cluster, and the hashes of ranges with zeroes
	// in place of that.
	head []byte
	body []string

	mu     sync.Mutex // guards report.Notes while the snapshot is watched
	report *Report
}

// Run backs a volume up. Either it returns without an error and the image is
// in place and verified, or there is no image; with one exception: when all
// that failed was removing our own snapshot, there is a report, and an error
// that names the snapshot.
//
// Cancelling ctx ends it early, and still removes the snapshot and the files.
func Run(ctx context.Context, g manager.Group, o Options) (*Report, error) {
	return alone(ctx, newImages([]Volumes{{g, []string{o.LV}}}, o))
}

// RunAll backs several volumes up as they were at one instant, each into an
// image of its own. One that fails does not take the others with it: the
// report has those that succeeded, and the error says of each other why.
func RunAll(ctx context.Context, volumes []Volumes, o Options) (*SetReport[*Report], error) {
	return newImages(volumes, o).run(ctx)
}

// newImages is the set of backups of volumes into a directory.
func newImages(volumes []Volumes, o Options) *set[*Report] {
	s := &set[*Report]{common: o.common()}
	var jobs []*job
	for _, v := range volumes {
		for _, lv := range v.LVs {
			o.LV = lv
			j := &job{g: v.Group, o: o}
			jobs, s.members = append(jobs, j), append(s.members, j)
		}
	}
	if o.DomainXML != "" {
		var d *domain
		s.prepared = func(ctx context.Context, started time.Time) (err error) {
			d, err = newDomain(ctx, o.DomainXML, jobs, started, s.warn)
			return err
		}
		s.complete = func() error { return d.publish() }
	}
	return s
}

func (o *Options) common() common {
	return common{target: o.Dir, size: o.SnapshotSize, dryRun: o.DryRun, hooks: o.Hooks, noFreeze: o.NoFreeze, Reporter: o.Reporter}
}

// ending is what the name of the image ends in.
func (o *Options) ending() string {
	if o.Format == Tar {
		return string(o.Format) + archive.Compression(o.Compress).Ending()
	}
	return string(o.Format)
}

// source implements member.
func (j *job) source() *source { return j.src }

// wants implements member. An image of files may have to be mounted, and its
// journal replayed into the snapshot.
func (j *job) wants() (readOnly bool) { return !j.mayMount }

// plan implements member.
func (j *job) plan() *Report { return j.report }

// abandon implements member.
func (j *job) abandon() { j.out.abandon() }

// run implements member.
func (j *job) run(ctx context.Context, m moment) (r *Report, left, err error) {
	started := time.Now()
	left, err = j.read(ctx, m)
	if err == nil {
		err = j.prove(ctx)
	}
	if err == nil {
		err = j.out.publish(j.m)
	}
	if err != nil {
		j.out.abandon()
		if ctx.Err() != nil {
			err = fmt.Errorf("backup of %s/%s %w (%v): no image is kept", j.src.vg.Name, j.src.lv.Name, ErrInterrupted, context.Cause(ctx))
		}
		return nil, left, err
	}
	j.report.Seconds = (m.took + time.Since(started)).Seconds()
	j.report.Rate = float64(j.report.ImageBytes) / max(j.report.Seconds, 1e-9)
	return j.report, left, nil
}

// prepare does what can fail before there is a snapshot.
func (j *job) prepare(ctx context.Context, started time.Time) error {
	o := &j.o
	if o.Format == "" {
		o.Format = Raw
	}
	if o.open == nil {
		o.open = openPartial
	}
	if o.every == 0 {
		o.every = time.Second
	}
	switch o.Format {
	case Raw, Tar, Qcow2:
	default:
		return errs.E(errs.Usage, "unknown format %q: there are %s, %s and %s", o.Format, Raw, Tar, Qcow2)
	}
	if o.Compress == "" {
		o.Compress = None
	}
	if !slices.Contains(compressions[o.Format], o.Compress) {
		return errs.E(errs.Usage, "a %s image is not compressed by %s: there are %v", o.Format, o.Compress, compressions[o.Format])
	}
	if o.DomainXML != "" && o.Format == Tar {
		return errs.WithHint(errs.E(errs.Usage, "a virtual machine cannot run from a tar archive"), "Use --format qcow2 or raw with --domain-xml.")
	}
	src, st, err := findSource(ctx, j.g, o.LV)
	if err != nil {
		return err
	}
	j.src = src
	src.pool(o.SnapshotSize)
	if o.Format == Tar {
		if err := j.checkFiles(ctx, st); err != nil {
			return err
		}
	}
	if o.DryRun {
		j.out, err = &output{dir: o.Dir, name: imageName(src.vg.Name, src.lv.Name, o.ending(), started, 1)}, checkDir(o.Dir)
	} else {
		j.out, err = createOutput(o.Dir, src.vg.Name, src.lv.Name, o.ending(), started, o.open)
	}
	if err != nil {
		return err
	}
	j.report = &Report{
		VG: src.vg.Name, LV: src.lv.Name, Snapshot: src.snapshot, SnapshotKept: !src.own, Format: o.Format,
		Image: j.out.path(), Manifest: j.out.path() + manifestSuffix, Checksums: j.out.path() + checksumSuffix,
	}
	j.m = &Manifest{
		Format: manifestFormat, Version: manifestVersion, Tool: o.Tool, Started: started.UTC(),
		Image: Image{File: j.out.name, Format: o.Format, RangeBytes: RangeBytes},
		Source: Source{VG: src.vg.Name, VGUUID: src.vg.ID.String(), LV: src.lv.Name, LVUUID: src.lv.ID.String(),
			Fstab: fstabOf(st, src.lv.Name), Group: string(src.metadata(o.Tool, started.UTC()))},
	}
	for _, text := range src.leftovers(o.Dir) {
		j.note(text)
	}
	if rt := st.LVs[src.snapshot]; !src.own && rt.Opens > 0 && !src.readOnly {
		j.note(fmt.Sprintf("%s is writable and in use: what is written to it meanwhile may or may not be in the image", src.id()))
	}
	return nil
}

// note is for the person who watches, and for the report.
func (j *job) note(text string) {
	j.mu.Lock()
	j.report.Notes = append(j.report.Notes, text)
	j.mu.Unlock()
	j.o.note(text)
}

// read fills the partial image from the snapshot, which lives no longer than
// that takes. left is why our snapshot could not be removed.
func (j *job) read(ctx context.Context, m moment) (left, err error) {
	defer func() { left = j.src.release(ctx) }()
	j.report.Notes, j.report.Pause = append(j.report.Notes, m.notes...), m.pause
	if m.instant != nil {
		j.report.Instant, j.m.Instant = m.instant.ID, m.instant
	}
	if err := j.describeSnapshot(ctx); err != nil {
		return nil, err
	}
	dev, err := j.g.Open(ctx, j.src.snapshot, true)
	if err != nil {
		return nil, err
	}
	watched, stop := j.src.watch(ctx, j.o.every, j.note)
	d, err := j.fill(watched, dev)
	highest := stop()
	// Also after an error: an overflow explains it better than what a read
	// says. Before closing: of a group that nobody serves, only what is open
	// is active.
	cow, checkErr := j.src.finalCheck(ctx)
	err = errors.Join(err, dev.Close())
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, err
	case checkErr != nil && (err == nil || errs.Is(checkErr, errs.NoSpace)):
		return nil, checkErr
	case err != nil:
		return nil, err
	}
	j.report.SnapshotFill = highestFill(highest, cow)
	j.m.Finished = time.Now().UTC()
	j.sums(d)
	return nil, nil
}

// sums notes the hashes of the file. Those of a qcow2 image are known when it was
// read back.
func (j *job) sums(d digest) {
	j.report.SHA256, j.m.Image.SHA256, j.m.Image.Ranges = d.whole, d.whole, d.ranges
}

// describeSnapshot notes down what will be read.
func (j *job) describeSnapshot(ctx context.Context) error {
	st, err := j.g.Status(ctx)
	if err != nil {
		return err
	}
	lv, err := st.Group.FindLV(j.src.snapshot)
	if err != nil {
		return err
	}
	j.m.Snapshot = Snapshot{LV: lv.Name, LVUUID: lv.ID.String(), Time: time.Unix(lv.CreationTime, 0).UTC(), Own: j.src.own}
	return nil
}

// fill writes the partial image.
func (j *job) fill(ctx context.Context, dev block.Device) (digest, error) {
	j.report.VolumeBytes, j.m.Source.Bytes = dev.Size(), dev.Size()
	var err error
	if j.m.Source.FileSystem, err = manager.Signature(dev); err != nil {
		return digest{}, err
	}
	switch j.o.Format {
	case Tar:
		return j.fillTar(ctx, dev)
	case Qcow2:
		return digest{}, j.fillQcow2(ctx, dev)
	}
	j.m.Image.Bytes = dev.Size()
	if err := j.out.f.Truncate(dev.Size()); err != nil {
		return digest{}, err
	}
	to := &fileSink{w: j.out.f}
	d, read, err := copyDevice(ctx, dev, dev.Size(), to, j.o.phase(Reading, dev.Size()))
	j.report.ReadBytes, j.report.DataBytes = read, to.data.Load()
	j.m.Image.DataBytes = j.report.DataBytes
	return d, err
}

// prove flushes the image and compares what the disk holds with what was read.
func (j *job) prove(ctx context.Context) error {
	if err := j.out.f.Sync(); err != nil {
		return err
	}
	err := j.readBack(ctx)
	if err == nil && j.m.Image.packed() {
		err = proveArchive(ctx, j.out.partial(), &j.m.Image, j.o.phase(Checking, j.m.Image.Content.Bytes))
	}
	if errs.Is(err, errs.Corrupt) {
		return errs.WithHint(err, "The target disk does not return what was written to it: look at its health and at the kernel's log.")
	} else if err != nil {
		return err
	}
	st, err := os.Stat(j.out.partial())
	if err != nil {
		return err
	}
	j.report.ImageBytes, j.report.StoredBytes, j.report.Verified = st.Size(), allocated(st), true
	return nil
}

// readBack compares the image on the disk with what was read.
func (j *job) readBack(ctx context.Context) error {
	if j.o.Format == Qcow2 {
		d, err := j.proveQcow2(ctx)
		j.sums(d)
		return err
	}
	found, err := checkFile(ctx, j.out.partial(), &j.m.Image, j.o.phase(Verifying, j.m.Image.Bytes))
	if err != nil {
		return err
	}
	return errDamaged("image as read back", found)
}

// checkFile reads an image from the disk, not from memory where that can be
// helped, and returns how it differs from its description.
func checkFile(ctx context.Context, path string, want *Image, done func(int64)) ([]Damage, error) {
	dev, err := file.Open(path, file.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	if dev.Size() != want.Bytes {
		return []Damage{{Off: min(dev.Size(), want.Bytes), Len: max(dev.Size()-want.Bytes, want.Bytes-dev.Size()),
			Cause: fmt.Sprintf("the file has %d bytes instead of %d", dev.Size(), want.Bytes)}}, nil
	}
	forget(path)
	return checkRanges(ctx, dev, want.Bytes, want.RangeBytes, want.Ranges, done)
}

// forget drops the file's pages from memory.
func forget(path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	dropCache(f)
}
