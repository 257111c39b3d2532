package block

import (
	"io"
	"iter"
)

// zeroes is what WriteZeroBytes writes from; nobody may change it.
var zeroes [1 << 20]byte

// WriteZeroBytes writes length zero bytes at off, in pieces of at most 1 MiB:
// what WriteZeroes amounts to on a device that knows nothing better.
func WriteZeroBytes(w io.WriterAt, off, length int64) error {
	for length > 0 {
		n := min(length, int64(len(zeroes)))
		if _, err := w.WriteAt(zeroes[:n], off); err != nil {
			return err
		}
		off += n
		length -= n
	}
	return nil
}

// OneExtent yields a single extent, or nothing where the length is 0.
func OneExtent(e Extent) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		if e.Len > 0 {
			yield(e, nil)
		}
	}
}

// NoExtents yields nothing but the error.
func NoExtents(err error) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) { yield(Extent{}, err) }
}

// Coalesce joins neighbours of the same kind and depth into one extent.
func Coalesce(seq iter.Seq2[Extent, error]) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		var last Extent
		for e, err := range seq {
			switch {
			case err != nil:
				if last.Len == 0 || yield(last, nil) {
					yield(Extent{}, err)
				}
				return
			case last.Len > 0 && e.Off == last.End() && e.Kind == last.Kind && e.Depth == last.Depth:
				last.Len += e.Len
				continue
			case last.Len > 0 && !yield(last, nil):
				return
			}
			last = e
		}
		if last.Len > 0 {
			yield(last, nil)
		}
	}
}
