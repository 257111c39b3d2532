package qcow2

import (
	"bytes"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"

	"cowl/internal/errs"
)

// Compression is how clusters are compressed.
type Compression string

// The compressions.
const (
	None Compression = "none"
	Zlib Compression = "zlib" // raw deflate, which every qemu reads
	Zstd Compression = "zstd" // qemu from 5.1 on
)

const (
	compressionBit = 3 // incompatible feature: the header names the type
	zstdType       = 1

	// deflateWindow is as far as a reader lets deflate refer back.
	deflateWindow = 4 << 10
)

// Encoder compresses clusters, one at a time.
type Encoder struct {
	how     Compression
	deflate *flate.Writer
	zstd    *zstd.Encoder
	out     bytes.Buffer
}

// NewEncoder returns an encoder for clusters of images of that compression.
func NewEncoder(how Compression) (e *Encoder, err error) {
	e = &Encoder{how: how}
	switch how {
	case None:
	case Zlib:
		e.deflate, err = flate.NewWriterWindow(nil, deflateWindow)
	case Zstd:
		e.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(ClusterBytes),
			zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	default:
		err = errs.E(errs.Usage, "unknown compression %q: there are %s, %s and %s", how, None, Zlib, Zstd)
	}
	return e, err
}

// Encode appends to dst what Writer.Put takes of a cluster, and tells whether that
// is packed: a cluster that does not get smaller by a sector is left as it is.
func (e *Encoder) Encode(dst, cluster []byte) (_ []byte, packed bool, err error) {
	if e.how == None {
		return append(dst, cluster...), false, nil
	}
	whole := cluster
	if len(whole) < ClusterBytes { // a reader expects a whole cluster, also of the last
		whole = make([]byte, ClusterBytes)
		copy(whole, cluster)
	}
	start := len(dst)
	if e.zstd != nil {
		dst = e.zstd.EncodeAll(whole, dst)
	} else {
		e.out.Reset()
		e.deflate.Reset(&e.out)
		if _, err := e.deflate.Write(whole); err != nil {
			return dst, false, err
		}
		if err := e.deflate.Close(); err != nil {
			return dst, false, err
		}
		dst = append(dst, e.out.Bytes()...)
	}
	if len(dst)-start > ClusterBytes-sectorBytes {
		return append(dst[:start], cluster...), false, nil
	}
	return dst, true, nil
}
