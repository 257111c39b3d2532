package mda

import (
	"cowl/internal/errs"
)

// MinSize is the smallest area that can hold a text at all, bytes. LVM2 makes
// none below 32 KiB.
const MinSize = 4 * HeaderSize

// maxArea keeps sums of offsets and sizes far from overflow.
const maxArea = 1 << 56

// Span is a contiguous piece of the buffer, bytes from the start of the area.
type Span struct {
	Off, Len uint64
}

// End is the first byte after the span.
func (s Span) End() uint64 { return s.Off + s.Len }

// MaxText returns the length of the longest text, its NUL included, that an
// area of the given size takes: old and new have to fit side by side, each
// starting on a sector of its own.
func MaxText(size uint64) uint64 { return (size-HeaderSize)/2 - HeaderSize }

// CheckLocn reports why a slot cannot point to a text in an area of the given
// size. The error is of kind errs.Corrupt.
func CheckLocn(size uint64, l Locn) error {
	switch {
	case l.Offset < HeaderSize || l.Offset >= size:
		return errs.E(errs.Corrupt, "metadata text at byte %d is outside its area (want %d to %d)", l.Offset, HeaderSize, size-1)
	case l.Length == 0 || l.Length > size-HeaderSize:
		return errs.E(errs.Corrupt, "metadata text of %d bytes (want 1 to %d)", l.Length, size-HeaderSize)
	}
	return nil
}

// Spans splits length bytes at off where the buffer ends and goes on at its
// beginning: one span, or two.
func Spans(size, off, length uint64) []Span {
	first := min(length, size-off)
	spans := []Span{{off, first}}
	if first < length {
		spans = append(spans, Span{HeaderSize, length - first})
	}
	return spans
}

// Padded rounds a length up to whole sectors: what a write of a text covers.
func Padded(length uint64) uint64 {
	return (length + HeaderSize - 1) / HeaderSize * HeaderSize
}

// Place returns where a text of the given length (its NUL included) goes in
// an area of the given size whose committed slot is old: to the first sector
// after the old text, or to the buffer's beginning if that is its end. It
// never touches a sector of the old text; a text for which there is no such
// place gives an error of kind errs.NoSpace.
func Place(size uint64, old Locn, length uint64) (off uint64, err error) {
	if most := MaxText(size); length > most {
		return 0, errs.E(errs.NoSpace, "place metadata text: %d bytes are too large for the metadata area (at most %d)", length, most)
	}
	if old.None() || CheckLocn(size, old) != nil {
		return HeaderSize, nil
	}
	off = next(size, old)
	for _, n := range Spans(size, off, Padded(length)) {
		for _, o := range Spans(size, old.Offset, old.Length) {
			if n.Off < o.End() && o.Off < n.End() {
				return 0, errs.E(errs.NoSpace, "place metadata text: %d bytes at %d would overwrite the current %d bytes at %d",
					length, off, old.Length, old.Offset)
			}
		}
	}
	return off, nil
}

// next is LVM2's rule: the sector after the one that holds the old text's
// last byte, unless fewer than a sector's bytes follow it.
func next(size uint64, old Locn) uint64 {
	last := old.Offset + old.Length - 1
	if last >= size {
		last -= size - HeaderSize
	}
	off := Padded(last + 1)
	if off > size-HeaderSize {
		return HeaderSize
	}
	return off
}
