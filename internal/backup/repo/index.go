package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	kopia "github.com/kopia/kopia/repo"
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
		buf: []byte(indexHead), none: true,
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
	x.buf = append(x.buf, indexTail...)
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
	entries, err := r.readIndex(ctx, inner, ceil(size, unit))
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

// maxEntry is more than any entry of an index takes.
const maxEntry = 256

// readIndex reads the entries of an index, of which n are expected.
func (r *Repo) readIndex(ctx context.Context, inner object.ID, n int64) ([]object.IndirectObjectEntry, error) {
	o, err := r.rep.OpenObject(ctx, inner)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	if o.Length() > (n+1)*maxEntry {
		return nil, errs.E(errs.Corrupt, "%d bytes are too many for %d entries", o.Length(), n)
	}
	text := make([]byte, o.Length())
	if _, err := io.ReadFull(o, text); err != nil {
		return nil, err
	}
	return parseIndex(text, n)
}

// parseIndex reads an index, of which n entries are expected. encoding/json
// takes most of the time of an increment for it, so text that is as
// indexWriter writes it is read here; all other goes to encoding/json, which says
// what is wrong with it.
func parseIndex(text []byte, n int64) ([]object.IndirectObjectEntry, error) {
	entries := make([]object.IndirectObjectEntry, 0, min(n, int64(len(text)/minEntry)))
	rest, ok := bytes.CutPrefix(text, []byte(indexHead))
	for ok {
		var e object.IndirectObjectEntry
		if rest, ok = parseEntry(rest, &e); !ok {
			break
		}
		entries = append(entries, e)
		if string(rest) == indexTail {
			return entries, nil
		}
		rest, ok = bytes.CutPrefix(rest, []byte(","))
	}
	var other struct {
		Stream  string                       `json:"stream"`
		Entries []object.IndirectObjectEntry `json:"entries"`
	}
	if err := json.Unmarshal(text, &other); err != nil {
		return nil, err
	}
	return other.Entries, nil
}

// What indexes begin and end with, and the least that an entry takes.
const (
	indexHead = `{"stream":"kopia:indirect","entries":[`
	indexTail = "]}\n"
	minEntry  = len(`{"l":1,"o":""}`)
)

// parseEntry reads an entry, and returns what is behind it.
func parseEntry(b []byte, e *object.IndirectObjectEntry) (rest []byte, ok bool) {
	if b, ok = bytes.CutPrefix(b, []byte("{")); !ok {
		return nil, false
	}
	if b, ok = bytes.CutPrefix(b, []byte(`"s":`)); ok {
		if e.Start, b, ok = parseNumber(b); !ok {
			return nil, false
		}
	}
	if b, ok = bytes.CutPrefix(b, []byte(`"l":`)); !ok {
		return nil, false
	}
	if e.Length, b, ok = parseNumber(b); !ok {
		return nil, false
	}
	if b, ok = bytes.CutPrefix(b, []byte(`"o":"`)); !ok {
		return nil, false
	}
	id, rest, ok := bytes.Cut(b, []byte(`"}`))
	if !ok {
		return nil, false
	}
	var err error
	e.Object, err = object.ParseID(string(id))
	return rest, err == nil
}

// maxDigits is of numbers that fit into an int64 whatever they are.
const maxDigits = 18

// parseNumber reads a number without leading zeroes, and the comma behind it.
func parseNumber(b []byte) (n int64, rest []byte, ok bool) {
	i := 0
	for ; i < len(b) && i < maxDigits && '0' <= b[i] && b[i] <= '9'; i++ {
		n = 10*n + int64(b[i]-'0')
	}
	if i == 0 || i == len(b) || b[i] != ',' || b[0] == '0' {
		return 0, nil, false
	}
	return n, b[i+1:], true
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
