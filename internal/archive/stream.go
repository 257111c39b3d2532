package archive

import (
	"bufio"
	"context"
	"errors"
	"io"

	"cowl/internal/errs"
)

// stream is what is in an archive's file, decompressed. It is read forwards; going
// back costs nothing where nothing is compressed, else a new beginning.
type stream struct {
	ctx  context.Context
	file source
	size int64 // of the file
	how  Compression

	unpacked io.ReadCloser // nil before the first byte is asked for
	r        *bufio.Reader
	at       int64 // where r is, in what was decompressed
	buf      [copyStep]byte
}

const (
	// streamBuffer is how much of an archive is read at once: behind large files
	// there is one header in it.
	streamBuffer = 32 << 10
	copyStep     = 32 << 10
	discardStep  = 64 << 20
)

// source is the file, and remembers that it could not be read: the same error
// out of a decompressor looks like damage.
type source struct {
	io.ReaderAt
	failed error
}

func (s *source) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.ReaderAt.ReadAt(p, off)
	if err != nil && err != io.EOF {
		s.failed = err
	}
	return n, err
}

func newStream(ctx context.Context, file io.ReaderAt, size int64) (*stream, error) {
	s := &stream{ctx: ctx, file: source{ReaderAt: file}, size: size}
	head := make([]byte, min(size, 4))
	if n, err := s.file.ReadAt(head, 0); n < len(head) {
		return nil, err
	}
	s.how = CompressionOf(head)
	return s, nil
}

func (s *stream) packed() bool { return s.how != None }

// seek goes to a place, which may lie behind the end.
func (s *stream) seek(off int64) error {
	if s.r == nil || off < s.at || !s.packed() && off-s.at > int64(s.r.Buffered()) {
		if err := s.restart(off); err != nil {
			return err
		}
	}
	for off > s.at {
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		n, err := s.r.Discard(int(min(off-s.at, discardStep)))
		s.at += int64(n)
		if err != nil {
			return s.explain(err)
		}
	}
	return nil
}

// restart begins to read: at a place, or of what is compressed at the beginning.
func (s *stream) restart(off int64) (err error) {
	if s.r == nil {
		s.r = bufio.NewReaderSize(nil, streamBuffer)
	}
	if !s.packed() {
		off = min(off, s.size)
		s.r.Reset(io.NewSectionReader(&s.file, off, s.size-off))
		s.at = off
		return nil
	}
	s.close()
	if s.unpacked, err = s.how.Unpack(io.NewSectionReader(&s.file, 0, s.size)); err != nil {
		return s.explain(err)
	}
	s.r.Reset(s.unpacked)
	s.at = 0
	return nil
}

// read fills p. The error is io.EOF if there is nothing more, and
// io.ErrUnexpectedEOF if there is not enough.
func (s *stream) read(p []byte) error {
	n, err := io.ReadFull(s.r, p)
	s.at += int64(n)
	return s.explain(err)
}

func (s *stream) readByte() (byte, error) {
	b, err := s.r.ReadByte()
	if err == nil {
		s.at++
	}
	return b, s.explain(err)
}

// explain makes an error of a decompressor one of kind errs.Corrupt.
func (s *stream) explain(err error) error {
	switch {
	case err == nil, err == io.EOF, err == io.ErrUnexpectedEOF:
		return err
	case s.file.failed != nil:
		return s.file.failed
	case s.packed() && !errs.Is(err, errs.Corrupt):
		return errs.E(errs.Corrupt, "the compressed archive is damaged (%s, behind %d bytes of content): %w", s.how, s.at, err)
	}
	return err
}

// drain reads to the end, where a compressed stream has its checksum.
func (s *stream) drain() error {
	for {
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		if n, err := s.r.Discard(discardStep); err != nil {
			s.at += int64(n)
			return s.explain(err)
		}
		s.at += discardStep
	}
}

// readAt reads a part of a member. One that is not there is damage.
func (s *stream) readAt(p []byte, off int64) error {
	err := s.seek(off)
	if err == nil {
		err = s.read(p)
	}
	if errors.Is(err, io.EOF) || err == io.ErrUnexpectedEOF {
		err = errs.E(errs.Corrupt, "the archive ends at byte %d", s.at)
	}
	return err
}

func (s *stream) close() {
	if s.unpacked != nil {
		s.unpacked.Close()
		s.unpacked = nil
	}
}
