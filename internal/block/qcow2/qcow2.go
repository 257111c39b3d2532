// Package qcow2 reads qemu's image format as a block device: what a person has
// who was given a cloud image, or a virtual machine's disk. Package format/qcow2 writes such images.
//
// The format itself is read by github.com/lima-vm/go-qcow2reader. What is here
// is what an image from a stranger needs: a look at the header before the
// library takes memory for what it says, backing files opened by whoever knows
// which files may be opened, and a cache of decompressed clusters.
//
// Refused are encrypted images, data in another file, subclusters, and
// features that are newer. Bitmaps and internal snapshots do not matter to the
// content.
package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"

	library "github.com/lima-vm/go-qcow2reader/image/qcow2"

	"cowl/internal/block"
	"cowl/internal/errs"
)

// Backing opens the file that an image is backed by. The name is as it stands
// in the image, the format "" where the image does not say.
type Backing func(name, format string) (block.Device, error)

// statusBytes bounds the range that the library is asked about at once.
const statusBytes = 256 << 20

// Device is the content of a qcow2 image, read-only.
type Device struct {
	header  header
	file    block.Device
	image   *library.Qcow2
	backing block.Device // nil without one
	decoded cache
}

// Open reads the image in a file, and whatever backs it through backing (nil:
// such images are errs.Unsupported). The device owns both: closing it closes
// them. After an error the file is the caller's.
func Open(file block.Device, backing Backing) (*Device, error) {
	h, err := readHeader(file)
	if err != nil {
		return nil, err
	}
	setLibrary()
	img, err := library.Open(&view{file, h}, nil)
	if err == nil {
		err = img.Readable()
	}
	if err != nil {
		return nil, errs.E(errs.Corrupt, "qcow2: %w", err)
	}
	d := &Device{header: h, file: file, image: img}
	d.decoded.init(d.cluster())
	if h.backing == "" {
		return d, nil
	}
	if backing == nil {
		return nil, errs.E(errs.Unsupported, "qcow2: the image is backed by %q", h.backing)
	}
	d.backing, err = backing(h.backing, h.backingFormat)
	return d, err
}

func (d *Device) cluster() int64 { return 1 << d.header.clusterBits }

// view is the image as the library sees it: without a backing file, which it
// would open itself, and with no more of the table than counts. What follows
// the file's end in its last cluster reads as zeroes, as qemu has it.
type view struct {
	file   block.Device
	header header
}

// ReadAt implements io.ReaderAt.
func (v *view) ReadAt(p []byte, off int64) (int, error) {
	size, cluster := v.file.Size(), int64(1)<<v.header.clusterBits
	end := (size + cluster - 1) / cluster * cluster
	if off < 0 || off >= end {
		return 0, io.EOF
	}
	var short error
	if int64(len(p)) > end-off {
		p, short = p[:end-off], io.EOF
	}
	there := min(int64(len(p)), max(size-off, 0))
	if there > 0 {
		if n, err := v.file.ReadAt(p[:there], off); err != nil {
			return n, err
		}
	}
	clear(p[there:])
	if off < headerSize {
		v.mask(p, off)
	}
	return len(p), short
}

// mask replaces what a reader at off may see of the header's fields.
func (v *view) mask(p []byte, off int64) {
	var l1 [4]byte
	binary.BigEndian.PutUint32(l1[:], v.header.l1)
	patch(p, off, 8, make([]byte, 12)) // backing file
	patch(p, off, 36, l1[:])
}

// patch lays b, which belongs at the byte at, over what was read from off on.
func patch(p []byte, off, at int64, b []byte) {
	for i := range b {
		if to := at + int64(i) - off; to >= 0 && to < int64(len(p)) {
			p[to] = b[i]
		}
	}
}

// piece is a stretch of whole clusters, or up to the image's end, of one kind.
type piece struct {
	off, end   int64
	allocated  bool
	zero       bool
	compressed bool
}

// next returns the piece that holds off, which ends at or before end.
func (d *Device) next(off, end int64) (piece, error) {
	start := off / d.cluster() * d.cluster()
	stop := min((end+d.cluster()-1)/d.cluster()*d.cluster(), d.header.size, start+max(statusBytes, d.cluster()))
	e, err := d.image.Extent(start, stop-start)
	if err == nil && e.Length <= off-start {
		err = errors.New("no progress")
	}
	if err != nil {
		return piece{}, errs.E(errs.Corrupt, "qcow2: look up byte %d: %w", off, err)
	}
	return piece{
		off: off, end: min(start+e.Length, end),
		allocated: e.Allocated, zero: e.Zero, compressed: e.Compressed,
	}, nil
}

// ReadAt implements block.Device.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	if err := block.CheckRange(off, int64(len(p)), d.header.size); err != nil {
		return 0, err
	}
	done := 0
	for done < len(p) {
		s, err := d.next(off+int64(done), off+int64(len(p)))
		if err == nil {
			err = d.readPiece(p[done:done+int(s.end-s.off)], s)
		}
		if err != nil {
			return done, err
		}
		done += int(s.end - s.off)
	}
	return done, nil
}

func (d *Device) readPiece(p []byte, s piece) error {
	switch {
	case !s.allocated:
		return d.readBelow(p, s.off)
	case s.compressed:
		return d.readCompressed(p, s.off)
	case s.zero:
		clear(p)
		return nil
	}
	return d.fill(p, s.off)
}

// readBelow reads what the image itself does not hold. Behind the backing
// file's end there are zeroes.
func (d *Device) readBelow(p []byte, off int64) error {
	there := 0
	if d.backing != nil {
		there = int(min(int64(len(p)), max(d.backing.Size()-off, 0)))
	}
	clear(p[there:])
	if there == 0 {
		return nil
	}
	_, err := d.backing.ReadAt(p[:there], off)
	return err
}

// readCompressed reads clusters by way of the cache.
func (d *Device) readCompressed(p []byte, off int64) error {
	for len(p) > 0 {
		no := off / d.cluster()
		start := no * d.cluster()
		data := d.decoded.get(no)
		if data == nil {
			data = make([]byte, min(d.cluster(), d.header.size-start))
			if err := d.fill(data, start); err != nil {
				return err
			}
			d.decoded.put(no, data)
		}
		n := copy(p, data[off-start:])
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// fill reads through the library, which may return less than it was asked for.
func (d *Device) fill(p []byte, off int64) error {
	for done := 0; done < len(p); {
		n, err := d.image.ReadAt(p[done:], off+int64(done))
		if n == 0 {
			if err == nil || errors.Is(err, io.EOF) {
				err = errs.E(errs.Corrupt, "the data ends too early")
			}
			return fmt.Errorf("read qcow2 image at %d: %w", off+int64(done), err)
		}
		done += n
	}
	return nil
}

// Extents implements block.Device. Depth 0 is the image, 1 what backs it.
func (d *Device) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	if err := block.CheckRange(off, length, d.header.size); err != nil {
		return block.NoExtents(err)
	}
	return block.Coalesce(func(yield func(block.Extent, error) bool) {
		for end := off + length; off < end; {
			s, err := d.next(off, end)
			if err != nil {
				yield(block.Extent{}, err)
				return
			}
			if !d.extents(s, yield) {
				return
			}
			off = s.end
		}
	})
}

// extents yields a piece and reports whether to go on.
func (d *Device) extents(s piece, yield func(block.Extent, error) bool) bool {
	kind := block.Data
	switch {
	case !s.allocated:
		return d.extentsBelow(s, yield)
	case s.zero && !s.compressed:
		kind = block.Zero
	}
	return yield(block.Extent{Off: s.off, Len: s.end - s.off, Kind: kind}, nil)
}

func (d *Device) extentsBelow(s piece, yield func(block.Extent, error) bool) bool {
	below := s.off
	if d.backing != nil {
		below = max(s.off, min(s.end, d.backing.Size()))
		for e, err := range extentsOf(d.backing, s.off, below) {
			e.Depth++
			if !yield(e, err) || err != nil {
				return false
			}
		}
	}
	return below == s.end || yield(block.Extent{Off: below, Len: s.end - below, Kind: block.Hole}, nil)
}

// extentsOf yields what lies in [off, end) of a device, which may be nothing.
func extentsOf(dev block.Device, off, end int64) iter.Seq2[block.Extent, error] {
	if off >= end {
		return func(func(block.Extent, error) bool) {}
	}
	return dev.Extents(off, end-off)
}

// WriteAt implements block.Device.
func (d *Device) WriteAt([]byte, int64) (int, error) { return 0, block.ErrReadOnly }

// Flush implements block.Device. There is nothing to make durable here.
func (d *Device) Flush() error { return nil }

// Discard implements block.Device.
func (d *Device) Discard(int64, int64) error { return block.ErrReadOnly }

// WriteZeroes implements block.Device.
func (d *Device) WriteZeroes(int64, int64) error { return block.ErrReadOnly }

// Size implements block.Device.
func (d *Device) Size() int64 { return d.header.size }

// Caps implements block.Device.
func (d *Device) Caps() block.Caps { return block.Caps{ReadOnly: true, BlockSize: block.SectorSize} }

// Close implements block.Device.
func (d *Device) Close() error {
	err := d.file.Close()
	if d.backing != nil {
		err = errors.Join(err, d.backing.Close())
	}
	return err
}

var _ block.Device = (*Device)(nil)
