package qcow2

import (
	"compress/flate"
	"errors"
	"io"
	"sync"

	zstandard "github.com/klauspost/compress/zstd"
	library "github.com/lima-vm/go-qcow2reader/image/qcow2"
	librarylog "github.com/lima-vm/go-qcow2reader/log"
)

// setLibrary tells the library, whose settings are global, how to decompress,
// and to keep its remarks to itself: what matters of them is an error here.
var setLibrary = sync.OnceFunc(func() {
	librarylog.SetWarnFunc(nil)
	library.SetDecompressor(zlib, inflate)
	library.SetDecompressor(zstd, decodeZstd)
})

var inflaters = sync.Pool{New: func() any { return flate.NewReader(nil) }}

func inflate(r io.Reader) (io.ReadCloser, error) {
	f := inflaters.Get().(io.ReadCloser)
	if err := f.(flate.Resetter).Reset(r, nil); err != nil {
		return nil, err
	}
	return &whole{f, func() { inflaters.Put(f) }}, nil
}

// maxWindow is how much of its own output a zstd frame may refer back to. qemu
// compresses clusters one by one, and they have 2 MiB at most.
const maxWindow = 8 << 20

var decoders = sync.Pool{New: func() any {
	d, err := zstandard.NewReader(nil, zstandard.WithDecoderConcurrency(1), zstandard.WithDecoderLowmem(true),
		zstandard.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return err
	}
	return d
}}

func decodeZstd(r io.Reader) (io.ReadCloser, error) {
	d, ok := decoders.Get().(*zstandard.Decoder)
	if !ok {
		return nil, errors.New("no zstd decoder")
	}
	if err := d.Reset(r); err != nil {
		return nil, err
	}
	return &whole{d, func() {
		if d.Reset(nil) == nil { // or it would hold on to the image
			decoders.Put(d)
		}
	}}, nil
}

// whole is a decompressor whose Read fills the buffer. The library reads once,
// and starts over for what is missing: without this a cluster of 2 MiB would
// be decompressed up to 64 times. An error that comes with bytes can wait, too:
// the library takes it for the image's end.
type whole struct {
	io.Reader
	done func()
}

func (w *whole) Read(p []byte) (int, error) {
	n, err := io.ReadFull(w.Reader, p)
	if n > 0 {
		return n, nil
	}
	return 0, err
}

func (w *whole) Close() error {
	w.done()
	return nil
}
