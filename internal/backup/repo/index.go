package repo

import (
	"context"
	"fmt"
	"strconv"

	kopia "github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/object"

	"cowl/internal/errs"
)

// An index is kopia's indirect object: JSON that lists, in order, the objects
// that an object consists of.
//
//	{"stream":"kopia:indirect","entries":[{"l":65536,"o":"ID"},{"s":65536,"l":65536,"o":"ID"}]}
//
// s is the offset, left out where it is 0, and l the length. The JSON is
// stored as an object itself, as metadata (prefix x); "I" before that object's
// ID names the object that the index describes. That object may be an entry of
// another index, which is how an image's top index refers to its groups'.

// indexSplitter cuts the top index at fixed places, so that the parts of it
// that did not change are not stored again.
const indexSplitter = "FIXED-128K"

// indexCompressor is for metadata.
const indexCompressor = "zstd"

// indexWriter writes an index entry by entry.
type indexWriter struct {
	w    object.Writer
	buf  []byte
	off  int64
	none bool // no entry yet
}

func newIndexWriter(ctx context.Context, rep kopia.RepositoryWriter) *indexWriter {
	return &indexWriter{
		w: rep.NewObjectWriter(ctx, object.WriterOptions{
			Prefix: "x", Splitter: indexSplitter, Compressor: indexCompressor, MetadataCompressor: indexCompressor,
		}),
		buf: []byte(`{"stream":"kopia:indirect","entries":[`), none: true,
	}
}

// add puts an object of length bytes behind the others.
func (x *indexWriter) add(length int64, id object.ID) error {
	if !x.none {
		x.buf = append(x.buf, ',')
	}
	x.none = false
	x.buf = append(x.buf, '{')
	if x.off > 0 {
		x.buf = append(x.buf, `"s":`...)
		x.buf = strconv.AppendInt(x.buf, x.off, 10)
		x.buf = append(x.buf, ',')
	}
	x.buf = append(x.buf, `"l":`...)
	x.buf = strconv.AppendInt(x.buf, length, 10)
	x.buf = append(x.buf, `,"o":"`...)
	x.buf = id.Append(x.buf)
	x.buf = append(x.buf, `"}`...)
	x.off += length
	if len(x.buf) < 64<<10 {
		return nil
	}
	return x.flush()
}

func (x *indexWriter) flush() error {
	_, err := x.w.Write(x.buf)
	x.buf = x.buf[:0]
	return err
}

// result returns the ID of the object that the index describes.
func (x *indexWriter) result() (object.ID, error) {
	x.buf = append(x.buf, "]}\n"...)
	if err := x.flush(); err != nil {
		return object.EmptyID, err
	}
	id, err := x.w.Result()
	if err != nil {
		return object.EmptyID, err
	}
	return object.ParseID("I" + id.String())
}

func (x *indexWriter) close() { x.w.Close() }

// loadIndex reads the index of an object that has one, of n entries that are
// unit bytes each, the last of which may be shorter, size in all.
func (r *Repo) loadIndex(ctx context.Context, id object.ID, unit, size int64) ([]object.ID, error) {
	inner, ok := id.IndexObjectID()
	if !ok {
		return nil, errs.E(errs.Corrupt, "object %s has no index", id)
	}
	entries, err := object.LoadIndexObject(ctx, contents{r.rep.ContentReader()}, inner)
	if err != nil {
		return nil, r.damage(ctx, fmt.Errorf("index %s: %w", id, err))
	}
	if int64(len(entries)) != ceil(size, unit) {
		return nil, errs.E(errs.Corrupt, "index %s has %d entries instead of %d", id, len(entries), ceil(size, unit))
	}
	ids := make([]object.ID, len(entries))
	for i, e := range entries {
		off := int64(i) * unit
		if e.Start != off || e.Length != min(unit, size-off) {
			return nil, errs.E(errs.Corrupt, "index %s, entry %d: %d bytes at %d instead of %d at %d", id, i, e.Length, e.Start, min(unit, size-off), off)
		}
		ids[i] = e.Object
	}
	return ids, nil
}

// damage classifies an error of reading what is stored: the store's own
// errors, and that the reading was cancelled, are what they are; anything else
// means that what is there is not what was written.
func (r *Repo) damage(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	plain := explain(ctx, err)
	if plain != err || errs.Is(err, errs.Corrupt) {
		return plain
	}
	return errs.E(errs.Corrupt, "%w", err)
}

// contents are what indexes are read from.
type contents struct{ content.Reader }

// PrefetchContents fetches nothing ahead: an index is one or a few contents.
func (contents) PrefetchContents(context.Context, []content.ID, string) []content.ID { return nil }
