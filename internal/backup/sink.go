package backup

import (
	"bytes"
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
type volumeSink struct {
	dev     block.Device
	compare bool         // read first, and write only blocks that differ
	written atomic.Int64 // bytes
}

func (s *volumeSink) put(p *piece) error {
	switch {
	case s.compare:
		return s.putDiffering(p)
	case p.zero:
		s.written.Add(p.n)
		return s.dev.WriteZeroes(p.off, p.n)
	}
	s.written.Add(p.n)
	_, err := s.dev.WriteAt(p.buf, p.off)
	return err
}

// putDiffering writes the blocks of a piece that the volume has otherwise. Of
// a piece that is zero, holes of the volume are not even read.
func (s *volumeSink) putDiffering(p *piece) error {
	if !p.zero {
		return s.putBlocks(p.off, p.buf)
	}
	for e, err := range s.dev.Extents(p.off, p.n) {
		if err != nil {
			return err
		}
		for e.Kind == block.Data && e.Len > 0 {
			n := min(e.Len, int64(len(zeroes)))
			if err := s.putBlocks(e.Off, zeroes[:n]); err != nil {
				return err
			}
			e.Off, e.Len = e.Off+n, e.Len-n
		}
	}
	return nil
}

// putBlocks writes the runs of b that differ from what the volume has at off.
func (s *volumeSink) putBlocks(off int64, b []byte) error {
	old := make([]byte, len(b))
	if _, err := s.dev.ReadAt(old, off); err != nil {
		return err
	}
	for at := 0; at < len(b); {
		end := at
		for end < len(b) && !bytes.Equal(old[end:min(end+blockBytes, len(b))], b[end:min(end+blockBytes, len(b))]) {
			end = min(end+blockBytes, len(b))
		}
		if end > at {
			if _, err := s.dev.WriteAt(b[at:end], off+int64(at)); err != nil {
				return err
			}
			s.written.Add(int64(end - at))
		}
		at = end + blockBytes
	}
	return nil
}
