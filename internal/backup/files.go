package backup

import (
	"context"
	"fmt"
	"io"

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
	to := &fileSink{w: j.out.f}
	f := newFlow(ctx, to, j.o.phase(Reading, 0))
	w := &flowWriter{f: f}
	stats, err := j.archive(f.ctx, w, dev)
	if err == nil {
		err = w.flush()
	}
	d, err := f.finish(err)
	if err == nil {
		err = j.out.f.Truncate(w.off) // blocks of zeroes at the end were left out
	}
	j.report.Files, j.report.ReadBytes = stats.Entries, w.off
	j.report.DataBytes = to.data.Load()
	j.m.Image.Bytes, j.m.Image.DataBytes = w.off, j.report.DataBytes
	return d, err
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
