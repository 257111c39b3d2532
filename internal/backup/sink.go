package backup

import (
	"io"
	"sync/atomic"

	"cowl/internal/block"
)

// fileSink writes an image into a file that is all hole so far: blocks of
// zeroes are left out, and so stay holes.
type fileSink struct {
	w    io.WriterAt
	data atomic.Int64 // bytes written
}

func (s *fileSink) put(p *piece) error {
	if p.zero {
		return nil
	}
	for from, to := range dataRuns(p.buf) {
		if _, err := s.w.WriteAt(p.buf[from:to], p.off+int64(from)); err != nil {
			return err
		}
		s.data.Add(int64(to - from))
	}
	return nil
}

// dataRuns yields the runs [from, to) of blocks that are not all zero.
func dataRuns(b []byte) func(yield func(from, to int) bool) {
	return func(yield func(from, to int) bool) {
		start := -1
		for at := 0; at < len(b); at += blockBytes {
			zero := isZero(b[at:min(at+blockBytes, len(b))])
			switch {
			case !zero && start < 0:
				start = at
			case zero && start >= 0:
				if !yield(start, at) {
					return
				}
				start = -1
			}
		}
		if start >= 0 {
			yield(start, len(b))
		}
	}
}

// volumeSink writes an image into a volume, zeroes included: the volume may
// hold anything before.
type volumeSink struct{ dev block.Device }

func (s volumeSink) put(p *piece) error {
	if p.zero {
		return s.dev.WriteZeroes(p.off, p.n)
	}
	_, err := s.dev.WriteAt(p.buf, p.off)
	return err
}
