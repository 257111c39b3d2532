package block

import (
	"bytes"
	"context"
	"iter"
)

// compareBytes is how much of two devices is compared at once, and
// compareUnit how finely what differs is told apart.
const (
	compareBytes = 1 << 20
	compareUnit  = 4096
)

// Differing yields where two devices differ in a range that both have, in
// ascending order, neighbours joined, to compareUnit bytes. What is no data on
// either is not read. After an error it yields nothing more.
func Differing(ctx context.Context, a, b Device, off, length int64) iter.Seq2[Extent, error] {
	return Coalesce(func(yield func(Extent, error) bool) {
		c := comparison{a: a, b: b, yield: yield}
		next, stop := iter.Pull2(b.Extents(off, length))
		defer stop()
		var eb Extent
		for ea, err := range a.Extents(off, length) {
			for err == nil && ea.Len > 0 {
				if eb.Len == 0 {
					var ok bool
					if eb, err, ok = next(); err != nil || !ok {
						break
					}
				}
				n := min(ea.Len, eb.Len)
				if ea.Kind == Data || eb.Kind == Data {
					if !c.compare(ctx, ea.Off, n) {
						return
					}
				}
				ea.Off, ea.Len = ea.Off+n, ea.Len-n
				eb.Off, eb.Len = eb.Off+n, eb.Len-n
			}
			if err != nil {
				yield(Extent{}, err)
				return
			}
		}
	})
}

// comparison is two devices that are compared.
type comparison struct {
	a, b  Device
	x, y  []byte
	yield func(Extent, error) bool
}

// compare reads a range of both and yields what differs. It returns false when
// nothing more is wanted.
func (c *comparison) compare(ctx context.Context, off, length int64) bool {
	if c.x == nil {
		c.x, c.y = make([]byte, compareBytes), make([]byte, compareBytes)
	}
	for ; length > 0; off, length = off+compareBytes, length-compareBytes {
		x, y := c.x[:min(length, compareBytes)], c.y[:min(length, compareBytes)]
		err := ctx.Err()
		if err == nil {
			_, err = c.a.ReadAt(x, off)
		}
		if err == nil {
			_, err = c.b.ReadAt(y, off)
		}
		if err != nil {
			c.yield(Extent{}, err)
			return false
		}
		if bytes.Equal(x, y) {
			continue
		}
		for at := int64(0); at < int64(len(x)); {
			n := min(compareUnit-(off+at)%compareUnit, int64(len(x))-at)
			if !bytes.Equal(x[at:at+n], y[at:at+n]) && !c.yield(Extent{Off: off + at, Len: n}, nil) {
				return false
			}
			at += n
		}
	}
	return true
}
