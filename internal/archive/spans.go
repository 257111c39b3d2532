package archive

import (
	"encoding/binary"
	"iter"
	"math"

	"cowl/internal/errs"
)

// spanList is where a file with holes has its data. It holds pairs of varints, the
// length of a hole and that of the data behind it, which takes a fifth of what
// Spans do.
type spanList struct {
	code []byte
	end  int64 // of the last span
	data int64 // in all
}

// maxMap bounds one list, in bytes: some millions of spans.
const maxMap = 32 << 20

// add appends a span, which must not begin before the end of the last one.
func (l *spanList) add(off, length int64) error {
	switch {
	case off < l.end || length < 0 || off > math.MaxInt64-length:
		return errs.E(errs.Corrupt, "sparse file: %d bytes at byte %d do not follow byte %d", length, off, l.end)
	case len(l.code) > maxMap:
		return errs.E(errs.Unsupported, "sparse file: a map of more than %d bytes", maxMap)
	}
	if length > 0 {
		l.code = binary.AppendUvarint(l.code, uint64(off-l.end))
		l.code = binary.AppendUvarint(l.code, uint64(length))
		l.end, l.data = off+length, l.data+length
	}
	return nil
}

// spanReader goes through a list.
type spanReader struct {
	code   []byte // of what follows
	at     Span   // the one at hand
	stored int64  // bytes of data before it
}

func (r *spanReader) next() bool {
	if len(r.code) == 0 {
		return false
	}
	gap, n := binary.Uvarint(r.code)
	length, m := binary.Uvarint(r.code[n:])
	r.code = r.code[n+m:]
	r.stored += r.at.Len
	r.at = Span{r.at.Off + r.at.Len + int64(gap), int64(length)}
	return true
}

// all yields the spans.
func (l *spanList) all() iter.Seq2[Span, error] {
	return func(yield func(Span, error) bool) {
		for r := (spanReader{code: l.code}); r.next(); {
			if !yield(r.at, nil) {
				return
			}
		}
	}
}
