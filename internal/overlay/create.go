package overlay

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"cowl/internal/block/file"
	"cowl/internal/errs"
	"cowl/internal/format/ovlabel"
	"cowl/internal/volume"
)

// maxChunks is how many chunks a store may have, see snap.Open.
const maxChunks = 1 << 32

// CreateOptions is how a new overlay is made. The zero value is what most want.
type CreateOptions struct {
	// Chunk is the chunk size in bytes; 0 for LVM's default, or as much more as
	// so large a base needs.
	Chunk int64
	// Size is the size of the store, bytes; 0 for as much as can be of use.
	Size int64
	// Format is "raw" or "qcow2"; "" finds out.
	Format string
	// BackingAnywhere lets a qcow2 base be backed by files that are not below
	// its own directory.
	BackingAnywhere bool
	Now             time.Time
	Test            bool // only find out whether it could be made
}

// Create makes an overlay over a base in a new file. The file is sparse, and
// takes the space of what will be written to the overlay.
func Create(path, basePath string, o CreateOptions) (info *Info, err error) {
	format, err := parseFormat(o.Format)
	if err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(basePath)
	if err != nil {
		return nil, err
	}
	b, err := openBase(abs, format, o.BackingAnywhere)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	members, err := b.members()
	if err != nil {
		return nil, err
	}
	l := &ovlabel.Label{
		Sequence: 1, State: ovlabel.Live, Format: b.format, Anywhere: o.BackingAnywhere,
		Size: b.dev.Size(), Created: o.Now.Unix(), Path: abs, Members: members,
	}
	if err := l.Validate(); err != nil {
		return nil, err
	}
	chunk, size, err := storeSize(b.dev.Size(), o)
	if err != nil {
		return nil, err
	}
	if o.Test {
		return &Info{Path: path, Base: abs, Format: formatName(b.format), Size: b.dev.Size(), Chunk: chunk}, nil
	}
	if err := makeFile(path, l, chunk, size); err != nil {
		return nil, err
	}
	return Inspect(path)
}

func parseFormat(name string) (ovlabel.Format, error) {
	switch name {
	case "":
		return 0, nil
	case "raw":
		return ovlabel.Raw, nil
	case "qcow2":
		return ovlabel.Qcow2, nil
	}
	return 0, errs.E(errs.Usage, "no such format: %q; it may be raw or qcow2", name)
}

// storeSize chooses chunk and size of the store, both in bytes.
func storeSize(base int64, o CreateOptions) (chunk, size int64, err error) {
	chunk = o.Chunk
	if chunk == 0 {
		for chunk = volume.DefaultChunk.Bytes(); useful(base, chunk) > maxChunks*chunk && chunk < volume.MaxChunk.Bytes(); chunk *= 2 {
		}
	}
	if err := volume.CheckChunkSize(volume.Sectors(chunk / 512)); err != nil {
		return 0, 0, err
	}
	limit := useful(base, chunk)
	switch size = o.Size / chunk * chunk; {
	case o.Size == 0 || size > limit:
		size = limit
	case size < 3*chunk:
		return 0, 0, errs.E(errs.Usage, "a store of %d bytes holds nothing: 3 chunks of %d bytes is the least", o.Size, chunk)
	}
	if size > maxChunks*chunk {
		return 0, 0, errs.WithHint(errs.E(errs.Unsupported, "a store for a base of %d bytes has more than 2^32 chunks of %d bytes", base, chunk),
			"Larger chunks: -c")
	}
	return chunk, size, nil
}

// useful returns the size of the largest store that a base can make use of.
func useful(base, chunk int64) int64 { return volume.CowMax(base, volume.Sectors(chunk/512)) }

// makeFile makes the file, or leaves nothing.
func makeFile(path string, l *ovlabel.Label, chunk, size int64) error {
	f, err := file.Create(path, size)
	if err != nil {
		if !errs.Is(err, errs.Exists) && !errs.Is(err, errs.NotFound) {
			err = errs.WithHint(err, "Where a file cannot be that large, even if sparse: -L with a smaller size")
		}
		return err
	}
	if err := format(f, l, chunk); err != nil {
		return errors.Join(err, f.Close(), os.Remove(path))
	}
	return f.Close()
}
