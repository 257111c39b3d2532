package qcow2

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/bits"

	"cowl/internal/block"
	"cowl/internal/errs"
)

const (
	magic = "QFI\xfb"

	minClusterBits, maxClusterBits = 9, 21

	// maxL1 is the longest first-level table in entries, as qemu's: 32 MiB.
	maxL1 = 32 << 20 / 8

	// headerSize is how much of a header is looked at, bytes.
	headerSize = 112

	maxName       = 1023 // of a backing file, bytes
	maxExtensions = 64
)

// The incompatible features, by bit.
const (
	dirtyBit = iota // reference counts may be wrong; reading needs none
	corruptBit
	dataFileBit
	compressionBit
	extendedL2Bit
)

// The compression types.
const (
	zlib = 0
	zstd = 1
)

// header is what has to be known of an image before a library may see it.
type header struct {
	clusterBits   int
	size          int64 // bytes
	l1            uint32
	backing       string // "" without one
	backingFormat string // "" where the image does not say
}

// Is reports whether an image begins as a qcow2 one does.
func Is(dev block.Device) (bool, error) {
	b := make([]byte, len(magic))
	if dev.Size() < int64(len(b)) {
		return false, nil
	}
	_, err := dev.ReadAt(b, 0)
	return string(b) == magic, err
}

// readHeader refuses what cannot be read, or would take memory or time out of
// proportion.
func readHeader(dev block.Device) (header, error) {
	b := make([]byte, headerSize)
	if n := min(int64(len(b)), dev.Size()); n < 72 {
		return header{}, errs.E(errs.Corrupt, "qcow2: %d bytes are no image", n)
	} else if _, err := dev.ReadAt(b[:n], 0); err != nil {
		return header{}, fmt.Errorf("read qcow2 header: %w", err)
	}
	be := binary.BigEndian
	if string(b[:4]) != magic {
		return header{}, errs.E(errs.Corrupt, "qcow2: magic % x, want % x", b[:4], magic)
	}
	length := uint32(72)
	switch v := be.Uint32(b[4:]); v {
	case 2:
	case 3:
		length = be.Uint32(b[100:])
		if err := checkFeatures(be.Uint64(b[72:]), length, b[104]); err != nil {
			return header{}, err
		}
	default:
		return header{}, errs.E(errs.Unsupported, "qcow2: version %d", v)
	}
	if be.Uint32(b[32:]) != 0 {
		return header{}, errs.E(errs.Unsupported, "qcow2: the image is encrypted")
	}
	h := header{clusterBits: int(be.Uint32(b[20:]))}
	if bits := be.Uint32(b[20:]); bits < minClusterBits || bits > maxClusterBits {
		return header{}, errs.E(errs.Corrupt, "qcow2: clusters of 2^%d bytes", bits)
	}
	size := be.Uint64(b[24:])
	if size == 0 || size > math.MaxInt64/4 {
		return header{}, errs.E(errs.Corrupt, "qcow2: an image of %d bytes", size)
	}
	h.size = int64(size)
	if err := h.checkL1(be.Uint32(b[36:]), be.Uint64(b[40:]), dev.Size()); err != nil {
		return header{}, err
	}
	return h, h.readBacking(dev, be.Uint64(b[8:]), be.Uint32(b[16:]), int64(length))
}

func checkFeatures(incompatible uint64, length uint32, compression byte) error {
	has := func(bit int) bool { return incompatible>>bit&1 != 0 }
	switch {
	case length < 104 || length > 1<<minClusterBits:
		return errs.E(errs.Corrupt, "qcow2: a header of %d bytes", length)
	case has(corruptBit):
		return errs.WithHint(errs.E(errs.Corrupt, "qcow2: the image is marked as corrupt"), "Check it first: qemu-img check -r all")
	case has(dataFileBit):
		return errs.E(errs.Unsupported, "qcow2: the data is in a file of its own")
	case has(extendedL2Bit):
		return errs.WithHint(errs.E(errs.Unsupported, "qcow2: the image has subclusters"),
			"Convert it first: qemu-img convert -O qcow2 IMAGE COPY")
	case incompatible>>(extendedL2Bit+1) != 0:
		return errs.E(errs.Unsupported, "qcow2: unknown feature, bit %d", 63-bits.LeadingZeros64(incompatible))
	case length > 104 && compression > zstd:
		return errs.E(errs.Unsupported, "qcow2: compression type %d", compression)
	}
	return nil
}

// checkL1 makes sure that the first-level table reaches the image's end and
// lies in the file, and shortens it to what is needed.
func (h *header) checkL1(entries uint32, off uint64, fileSize int64) error {
	covers := int64(1) << (2*h.clusterBits - 3) // bytes that an entry stands for
	need := (h.size-1)/covers + 1
	switch {
	case need > maxL1:
		return errs.E(errs.Unsupported, "qcow2: an image of %d bytes in clusters of %d needs a table of %d entries, %d is the most", h.size, 1<<h.clusterBits, need, maxL1)
	case int64(entries) < need:
		return errs.E(errs.Corrupt, "qcow2: the table has %d entries, an image of %d bytes needs %d", entries, h.size, need)
	case off == 0 || off > math.MaxInt64/2 || int64(off) > fileSize-need*8:
		return errs.E(errs.Corrupt, "qcow2: the table at %d lies behind the file's end", off)
	}
	h.l1 = uint32(need)
	return nil
}

// readBacking reads the backing file's name, and its format where an extension
// of the header tells it.
func (h *header) readBacking(dev block.Device, off uint64, length uint32, extensions int64) error {
	if off == 0 {
		return nil
	}
	cluster := uint64(1) << h.clusterBits // which all of this has to fit
	if length == 0 || length > maxName || off >= cluster || int64(off)+int64(length) > dev.Size() {
		return errs.E(errs.Corrupt, "qcow2: the backing file's name has %d bytes at %d", length, off)
	}
	name := make([]byte, length)
	if _, err := dev.ReadAt(name, int64(off)); err != nil {
		return fmt.Errorf("read qcow2 backing file's name: %w", err)
	}
	h.backing = string(name)
	r := io.NewSectionReader(dev, extensions, min(dev.Size(), int64(cluster))-extensions)
	for range maxExtensions {
		var head [8]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil // the last one ends the header
		}
		kind, n := binary.BigEndian.Uint32(head[:]), binary.BigEndian.Uint32(head[4:])
		if kind == 0 || n > uint32(cluster) {
			return nil
		}
		data := make([]byte, (n+7)/8*8)
		if _, err := io.ReadFull(r, data); err != nil {
			return nil
		}
		if kind == 0xe2792aca {
			h.backingFormat = string(data[:n])
			return nil
		}
	}
	return nil
}
