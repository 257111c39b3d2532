package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
)

// digest is what is known of an image's bytes once they have gone by.
type digest struct {
	whole  string   // SHA-256 in hexadecimal
	ranges []string // as Image.Ranges
}

// wholeHash is the SHA-256 of all pieces.
type wholeHash struct{ h hash.Hash }

func newWholeHash() *wholeHash { return &wholeHash{sha256.New()} }

func (w *wholeHash) add(p *piece) {
	if p.buf != nil {
		w.h.Write(p.buf)
		return
	}
	hashZeroes(w.h, p.n)
}

func (w *wholeHash) sum() string { return hex.EncodeToString(w.h.Sum(nil)) }

// rangeHash makes the SHA-256 of each range. Ranges that are all zero are
// not hashed at all.
type rangeHash struct {
	length int64
	h      hash.Hash
	fill   int64 // bytes of the current range so far
	zeroes int64 // all of fill, as long as no data has come
	done   []string
}

func newRangeHash(length int64) *rangeHash { return &rangeHash{length: length, h: sha256.New()} }

// add takes the next piece, which may span ranges.
func (r *rangeHash) add(p *piece) {
	r.addRun(p.buf, p.n, p.zero)
}

func (r *rangeHash) addRun(b []byte, n int64, zero bool) {
	for n > 0 {
		part := min(n, r.length-r.fill)
		// Of data that spans ranges a part may be zero: what a range is called
		// must not depend on how its bytes came in.
		none := zero || isZero(b[:part])
		switch {
		case none && r.zeroes == r.fill:
			r.zeroes += part
		case none:
			hashZeroes(r.h, part)
		default:
			if r.fill > 0 && r.zeroes == r.fill {
				hashZeroes(r.h, r.zeroes)
			}
			r.zeroes = -1
			r.h.Write(b[:part])
		}
		r.fill += part
		n -= part
		if b != nil {
			b = b[part:]
		}
		if r.fill == r.length {
			r.close()
		}
	}
}

// close ends the current range.
func (r *rangeHash) close() {
	sum := zeroRange
	if r.zeroes != r.fill {
		sum = hex.EncodeToString(r.h.Sum(nil))
	}
	r.done = append(r.done, sum)
	r.h.Reset()
	r.fill, r.zeroes = 0, 0
}

// sums ends the last range and returns all.
func (r *rangeHash) sums() []string {
	if r.fill > 0 {
		r.close()
	}
	return r.done
}

func hashZeroes(h hash.Hash, n int64) {
	for n > 0 {
		part := min(n, int64(len(zeroes)))
		h.Write(zeroes[:part])
		n -= part
	}
}
