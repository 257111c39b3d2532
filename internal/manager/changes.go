package manager

import (
	"encoding/binary"
	"iter"
	"time"

	"cowl/internal/errs"
	"cowl/internal/volume"
)

// Changes says in which chunks a volume may differ from what one of its
// snapshots shows: those that were written to since it was taken, and those of
// the snapshot that were. It has all that was written before it was asked for,
// acknowledged writes included, and may have chunks in which both are the same.
//
// It carries the identity of both, so that whoever compares it with something
// older can tell whether that was of the same snapshot.
type Changes struct {
	VG           string    `json:"vg"`
	VGUUID       string    `json:"vg_uuid"`
	Seqno        uint64    `json:"seqno"` // of the group's metadata
	Origin       string    `json:"origin"`
	OriginUUID   string    `json:"origin_uuid"`
	Snapshot     string    `json:"snapshot"`
	SnapshotUUID string    `json:"snapshot_uuid"`
	Time         time.Time `json:"time"` // when the snapshot was taken
	// Bytes is the snapshot's size. What the origin has gained since lies behind
	// it, and is not in the ranges.
	Bytes int64 `json:"bytes"`
	Chunk int64 `json:"chunk_bytes"`

	// Code is the ranges, in ascending order: for each the gap before it and its
	// length, in chunks, as unsigned varints. So it takes 2 to 4 bytes a range,
	// and what millions of scattered writes left is one message.
	Code []byte `json:"code"`

	last struct {
		at         int   // where its code begins
		prev       int64 // the end of the one before
		start, end int64 // all in chunks
	}
}

// NewChanges returns the changes since a snapshot of size bytes, without ranges
// yet; chunk is that of its store, bytes.
func NewChanges(g *volume.Group, s volume.Snap, size, chunk int64) *Changes {
	return &Changes{
		VG: g.Name, VGUUID: g.ID.String(), Seqno: g.Seqno,
		Origin: s.Origin.Name, OriginUUID: s.Origin.ID.String(),
		Snapshot: s.Cow.Name, SnapshotUUID: s.Cow.ID.String(), Time: time.Unix(s.Cow.CreationTime, 0).UTC(),
		Bytes: size, Chunk: chunk,
	}
}

// Range is a stretch of bytes.
type Range struct{ Off, Len int64 }

// End returns the first byte after the range.
func (r Range) End() int64 { return r.Off + r.Len }

// Add puts a range of whole chunks behind those that there are; at the volume's
// end the last chunk may be short. One that touches the last is joined with it.
func (c *Changes) Add(off, length int64) error {
	l := &c.last
	switch {
	case c.Chunk <= 0 || off < 0 || length <= 0 || off > c.Bytes || length > c.Bytes-off:
		return errs.E(errs.Other, "a changed range of %d bytes at %d is outside the volume's %d bytes", length, off, c.Bytes)
	case off%c.Chunk != 0 || length%c.Chunk != 0 && off+length != c.Bytes || off/c.Chunk < l.end:
		return errs.E(errs.Other, "a changed range of %d bytes at %d does not follow the one before it in chunks of %d bytes", length, off, c.Chunk)
	}
	from, to := off/c.Chunk, (off+length-1)/c.Chunk+1
	if from == l.end && l.end > 0 {
		c.Code = c.Code[:l.at]
	} else {
		l.at, l.prev, l.start = len(c.Code), l.end, from
	}
	l.end = to
	c.Code = binary.AppendUvarint(c.Code, uint64(l.start-l.prev))
	c.Code = binary.AppendUvarint(c.Code, uint64(l.end-l.start))
	return nil
}

// All walks the ranges, in ascending order, none touching the next.
func (c *Changes) All() iter.Seq[Range] {
	return func(yield func(Range) bool) {
		for r, err := range c.decode() {
			if err != nil || !yield(r) {
				return
			}
		}
	}
}

// Total returns how many bytes there are in all ranges.
func (c *Changes) Total() int64 {
	var n int64
	for r := range c.All() {
		n += r.Len
	}
	return n
}

// Validate checks what came from somewhere else: then All has all of the code.
func (c *Changes) Validate() error {
	if c.Bytes < 0 || c.Chunk < 512 || c.Chunk&(c.Chunk-1) != 0 {
		return errs.E(errs.Corrupt, "changes of a volume of %d bytes in chunks of %d", c.Bytes, c.Chunk)
	}
	for _, err := range c.decode() {
		if err != nil {
			return err
		}
	}
	return nil
}

// decode walks the code, which may be anything.
func (c *Changes) decode() iter.Seq2[Range, error] {
	return func(yield func(Range, error) bool) {
		if c.Chunk <= 0 || c.Bytes <= 0 {
			if len(c.Code) > 0 {
				yield(Range{}, errs.E(errs.Corrupt, "changed ranges of nothing"))
			}
			return
		}
		chunks := uint64((c.Bytes-1)/c.Chunk) + 1
		var at uint64
		for code := c.Code; len(code) > 0; {
			gap, n := binary.Uvarint(code)
			code = code[max(n, 0):]
			length, k := binary.Uvarint(code)
			if n <= 0 || k <= 0 || length == 0 || at > 0 && gap == 0 || gap > chunks-at || length > chunks-at-gap {
				yield(Range{}, errs.E(errs.Corrupt, "the code of changed ranges is damaged behind chunk %d of %d", at, chunks))
				return
			}
			code = code[k:]
			from, to := at+gap, at+gap+length
			at = to
			r := Range{Off: int64(from) * c.Chunk}
			r.Len = c.Bytes - r.Off
			if to < chunks {
				r.Len = int64(to)*c.Chunk - r.Off
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}
