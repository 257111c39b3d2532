package fsdiff

import (
	"bytes"
	"context"
	"iter"

	"cowl/internal/format/ext4"
	"cowl/internal/fsread"
)

// compareBytes is how much of two files is compared at once.
const compareBytes = 128 << 10

// sameBytes compares the content of regular files. It reads only what may
// differ. What cannot be read is asked about, and counts as the same.
func (d *differ) sameBytes(path string, na, nb *fsread.Node) (bool, error) {
	if na.Size != nb.Size {
		return false, nil
	}
	if na.Flags&nb.Flags&ext4.FlagEncrypt != 0 && sameInode(na, nb) {
		return true, nil // as far as can be told without the key
	}
	c := comparison{ctx: d.ctx, pair: d.pair, buf: &d.buf}
	for s, n := range []*fsread.Node{na, nb} {
		var err error
		if c.files[s], err = d.fs[s].OpenFile(n); err != nil {
			return true, d.failed(side(s), path, err)
		}
	}
	same, s, err := c.run()
	if err != nil {
		return true, d.failed(s, path, err)
	}
	return same, nil
}

// comparison is two files of one size that are compared.
type comparison struct {
	ctx   context.Context
	pair  *fsread.Pair // nil if nothing is known
	files [2]*fsread.File
	buf   *[2][]byte // of compareBytes, once they are needed
}

// run compares the files, piece by piece that is of one kind in both. An error
// comes with the side that it is of.
func (c *comparison) run() (same bool, s side, err error) {
	size := c.files[sideA].Size()
	next, stop := iter.Pull2(c.files[sideB].Extents(0, size))
	defer stop()
	var b fsread.Extent
	for a, err := range c.files[sideA].Extents(0, size) {
		if err != nil {
			return false, sideA, err
		}
		for a.Len > 0 {
			if b.Len == 0 {
				var ok bool
				if b, err, ok = next(); err != nil || !ok {
					return false, sideB, err
				}
			}
			n := min(a.Len, b.Len)
			if same, s, err := c.piece(a, b, n); err != nil || !same {
				return false, s, err
			}
			a, b = behind(a, n), behind(b, n)
		}
	}
	return true, sideA, nil
}

// behind cuts the beginning off an extent.
func behind(e fsread.Extent, n int64) fsread.Extent {
	e.Off, e.Len = e.Off+n, e.Len-n
	if e.Phys >= 0 {
		e.Phys += n
	}
	return e
}

// piece compares the first n bytes of two extents.
func (c *comparison) piece(a, b fsread.Extent, n int64) (same bool, s side, err error) {
	if a.Kind != fsread.Data && b.Kind != fsread.Data {
		return true, sideA, nil
	}
	if c.pair != nil && a.Kind == b.Kind && a.Phys >= 0 && a.Phys == b.Phys && !c.pair.Differs(a.Phys, n) {
		return true, sideA, nil
	}
	if c.buf[sideA] == nil {
		*c.buf = [2][]byte{make([]byte, compareBytes), make([]byte, compareBytes)}
	}
	for off, end := a.Off, a.Off+n; off < end; off += compareBytes {
		if c.ctx.Err() != nil {
			return false, sideA, context.Cause(c.ctx)
		}
		length := min(compareBytes, end-off)
		for s := range c.files {
			if _, err := c.files[s].ReadAt(c.buf[s][:length], off); err != nil {
				return false, side(s), err
			}
		}
		if !bytes.Equal(c.buf[sideA][:length], c.buf[sideB][:length]) {
			return false, sideA, nil
		}
	}
	return true, sideA, nil
}
