package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"cowl/internal/archive"
	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/fsread"
	"cowl/internal/kernelfs"
	"cowl/internal/manager"
)

// The files of an ext2, ext3 or ext4 are read by package fsread, which needs
// no privileges and replays the journal in memory. Others are mounted; so is
// one with features that fsread does not read, where that is possible.

// checkFiles makes sure, before there is a snapshot, that the volume's files
// can be read one way or the other.
func (j *job) checkFiles(ctx context.Context, st *manager.Status) error {
	dev, err := j.g.Open(ctx, j.src.lv.Name, true)
	if err != nil {
		return err
	}
	ext, err := fsread.Detect(dev)
	if closeErr := dev.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	why := kernelfs.Possible()
	if why != nil {
		why = errNoTar(why.Error())
	} else if st.LVs[j.src.lv.Name].File == "" {
		why = errNoFile(j.src.vg.Name, j.src.lv.Name)
	}
	j.mayMount = why == nil
	if ext {
		return nil
	}
	return why
}

// fillTar archives the file system in the snapshot.
func (j *job) fillTar(ctx context.Context, dev block.Device) (digest, error) {
	to, i := &fileSink{w: j.out.f}, &j.m.Image
	if j.o.Compress == None {
		d, err := j.readFiles(ctx, dev, to, nil)
		if err != nil {
			return d, err
		}
		i.Bytes, i.DataBytes = j.report.ReadBytes, j.report.DataBytes
		return d, j.out.f.Truncate(i.Bytes) // blocks of zeroes at the end were left out
	}
	file := newFlow(ctx, to, func(int64) {})
	out := &flowWriter{f: file}
	packer, err := archive.Compression(j.o.Compress).Pack(out)
	if err != nil {
		_, err = file.finish(err)
		return digest{}, err
	}
	content, err := j.readFiles(file.ctx, dev, &fileSink{w: uncounted{}}, packer)
	if err = errors.Join(err, packer.Close()); err == nil {
		err = out.flush()
	}
	d, err := file.finish(err)
	if err != nil {
		return d, err
	}
	i.Bytes, i.DataBytes, i.Compression = out.off, to.data.Load(), j.o.Compress
	i.Content = &Content{Bytes: j.report.ReadBytes, DataBytes: j.report.DataBytes, SHA256: content.whole, RangeBytes: RangeBytes, Ranges: content.ranges}
	return d, j.out.f.Truncate(out.off)
}

// readFiles makes the archive of the snapshot, which dev is, for the sink, and
// for also unless that is nil.
func (j *job) readFiles(ctx context.Context, dev block.Device, to *fileSink, also io.Writer) (digest, error) {
	f := newFlow(ctx, to, j.o.phase(Reading, 0))
	out := &flowWriter{f: f}
	w := io.Writer(out)
	if also != nil {
		w = io.MultiWriter(out, also)
	}
	stats, err := j.archive(f.ctx, w, dev)
	if err == nil {
		err = out.flush()
	}
	d, err := f.finish(err)
	j.report.Files, j.report.ReadBytes, j.report.DataBytes = stats.Entries, out.off, to.data.Load()
	return d, err
}

// uncounted takes what goes elsewhere.
type uncounted struct{}

func (uncounted) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }

// proveArchive reads what is in a compressed archive, and compares it with what it
// should be.
func proveArchive(ctx context.Context, path string, i *Image, done func(int64)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := archive.Compression(i.Compression).Unpack(f)
	if err != nil {
		return errs.E(errs.Corrupt, "archive %s: %w", path, err)
	}
	defer r.Close()
	flow := newFlow(ctx, nowhere{}, done)
	w := &flowWriter{f: flow}
	// One byte more than there should be tells that it is too long.
	_, err = io.Copy(w, io.LimitReader(r, i.Content.Bytes+1))
	if err == nil {
		err = w.flush()
	}
	d, err := flow.finish(err)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return errs.E(errs.Corrupt, "archive %s: %w", path, err)
	case w.off != i.Content.Bytes:
		return errs.E(errs.Corrupt, "archive %s: %d bytes are in it or more, not %d", path, w.off, i.Content.Bytes)
	}
	return errDamaged("archive in "+path, differing(i.Content, d.ranges))
}

// OwnArchive tells whether a file is an archive that a backup made, by its manifest.
// No name is in it twice.
func OwnArchive(path string) bool {
	m, _, err := readManifest(path)
	if err != nil || m.Image.Format != Tar {
		return false
	}
	st, err := os.Stat(path)
	return err == nil && st.Size() == m.Image.Bytes
}

// archive writes the files of the snapshot, which dev is, to w.
func (j *job) archive(ctx context.Context, w io.Writer, dev block.Device) (archive.Stats, error) {
	fs, err := fsread.Open(ctx, dev, fsread.Options{})
	if err == nil {
		tree, err := archive.Root(fs)
		if err != nil {
			return archive.Stats{}, err
		}
		return archive.Write(ctx, w, tree, archive.Options{Note: j.note})
	}
	if !errs.Is(err, errs.NotFound) && !errs.Is(err, errs.Unsupported) {
		return archive.Stats{}, err
	}
	if !j.mayMount {
		return archive.Stats{}, errNoTar(fmt.Sprintf("%v; mounting it is not possible here either", err))
	}
	st, err := j.g.Status(ctx)
	if err != nil {
		return archive.Stats{}, err
	}
	path := st.LVs[j.src.snapshot].File
	if path == "" {
		return archive.Stats{}, errNoFile(j.src.vg.Name, j.src.snapshot)
	}
	return archiveMounted(ctx, w, path, j.src.readOnly, j.note)
}

// errNoTar explains what to do instead of an archive.
func errNoTar(why string) error {
	return errs.WithHint(errs.E(errs.Unsupported, "format tar: %s", why), "Use --format raw, which backs up any volume as it is.")
}

// errNoFile says that a volume is nowhere where the kernel could mount it.
func errNoFile(vg, lv string) error {
	return errs.WithHint(errs.E(errs.Conflict, "%s/%s holds no ext2, ext3 or ext4, and is not there as a file or device that could be mounted", vg, lv),
		"Activate the group where FUSE is available (cowl vgchange -ay %s), or use --format raw.", vg)
}
