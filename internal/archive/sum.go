package archive

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"io"
	"iter"
)

// Sum is a hash of what is in a file: of all blocks of sumBlock bytes that are not
// zero, with their numbers. So it is the same however the file's holes are kept,
// and costs nothing for them.
type Sum [sha256.Size]byte

const sumBlock = 4096

// summer makes a Sum of bytes that come in order.
type summer struct {
	hash  hash.Hash
	no    int64 // of the block at hand
	block [sumBlock]byte
	dirty bool // it has something in it that is not zero
}

func newSummer() *summer { return &summer{hash: sha256.New()} }

// add takes what is at a place, which is not before what came last.
func (s *summer) add(p []byte, off int64) {
	for len(p) > 0 {
		if no := off / sumBlock; no != s.no {
			s.flush()
			s.no = no
		}
		at := int(off % sumBlock)
		n := copy(s.block[at:], p)
		for _, b := range p[:n] {
			if b != 0 {
				s.dirty = true
				break
			}
		}
		p, off = p[n:], off+int64(n)
	}
}

func (s *summer) flush() {
	if s.dirty {
		var no [8]byte
		binary.LittleEndian.PutUint64(no[:], uint64(s.no))
		s.hash.Write(no[:])
		s.hash.Write(s.block[:])
		s.block, s.dirty = [sumBlock]byte{}, false
	}
}

// sum ends the file.
func (s *summer) sum() (out Sum) {
	s.flush()
	s.hash.Sum(out[:0])
	s.hash.Reset()
	return out
}

// SumOf reads a file of size bytes, unless its sum is known.
func SumOf(ctx context.Context, c Content, size int64) (Sum, error) {
	if c.Sum != nil {
		return *c.Sum, nil
	}
	s := newSummer()
	buf := make([]byte, copyBytes)
	for span, err := range c.Spans(size) {
		if err != nil {
			return Sum{}, err
		}
		for span.Len > 0 {
			if ctx.Err() != nil {
				return Sum{}, context.Cause(ctx)
			}
			b := buf[:min(span.Len, int64(len(buf)))]
			if n, err := c.ReadAt(b, span.Off); n < len(b) {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return Sum{}, err
			}
			s.add(b, span.Off)
			span.Off, span.Len = span.Off+int64(len(b)), span.Len-int64(len(b))
		}
	}
	return s.sum(), nil
}

// Spans is where a file of size bytes may have data.
func (c Content) Spans(size int64) iter.Seq2[Span, error] {
	if c.Data != nil {
		return c.Data
	}
	return one(Span{0, size})
}
