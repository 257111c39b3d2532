package archive

import (
	"bytes"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"cowl/internal/errs"
)

// Compression is how an archive is packed. "" is None.
type Compression string

// The compressions. Both of them end in a checksum of what they hold.
const (
	None Compression = "none"
	Gzip Compression = "gzip"
	Zstd Compression = "zstd"
)

// maxWindow bounds the memory that a zstd stream can ask for: what zstd itself
// takes without --long or --memory.
const maxWindow = 128 << 20

// CompressionOf says how a file that begins with head is packed. Four bytes are
// enough.
func CompressionOf(head []byte) Compression {
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		return Gzip
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		return Zstd
	}
	return None
}

// Ending is what the name of such an archive ends in, behind ".tar".
func (c Compression) Ending() string {
	switch c {
	case Gzip:
		return ".gz"
	case Zstd:
		return ".zst"
	}
	return ""
}

// Pack returns what compresses on the way to w. Closing it ends the compressed
// stream, and does not close w. Also after an error it is to be closed: it
// works in parallel.
func (c Compression) Pack(w io.Writer) (io.WriteCloser, error) {
	switch c {
	case "", None:
		return asItIs{w}, nil
	case Gzip:
		return gzip.NewWriter(w), nil
	case Zstd:
		return zstd.NewWriter(w)
	}
	return nil, c.unknown()
}

// Unpack returns what is in a compressed stream. Closing it does not close r.
func (c Compression) Unpack(r io.Reader) (io.ReadCloser, error) {
	switch c {
	case "", None:
		return io.NopCloser(r), nil
	case Gzip:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		return z, nil
	case Zstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return nil, c.unknown()
}

func (c Compression) unknown() error {
	return errs.E(errs.Usage, "an archive is not compressed by %q: there are %s, %s and %s", string(c), None, Gzip, Zstd)
}

// asItIs writes what it gets.
type asItIs struct{ io.Writer }

func (asItIs) Close() error { return nil }
