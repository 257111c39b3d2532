package fsread

import (
	"fmt"
	"slices"

	"cowl/internal/block"
	"cowl/internal/format/ext4"
)

// image is the device as it is after the journal was replayed: blocks that
// the journal holds are read from there.
type image struct {
	dev       block.Device
	blockSize int64
	blocks    []uint64 // that the journal holds, in order
	copies    map[uint64]logged
}

// logged is the copy of a block in the journal.
type logged struct {
	at      uint64 // block on the device
	escaped bool
}

// read fills p with the device's bytes from off. The caller has made sure that
// they are within the file system.
func (im *image) read(p []byte, off int64) error {
	if _, err := im.dev.ReadAt(p, off); err != nil {
		return fmt.Errorf("read %d bytes at byte %d: %w", len(p), off, err)
	}
	if len(im.blocks) == 0 {
		return nil
	}
	first := uint64(off / im.blockSize)
	i, _ := slices.BinarySearch(im.blocks, first)
	for ; i < len(im.blocks) && int64(im.blocks[i])*im.blockSize < off+int64(len(p)); i++ {
		if err := im.patch(p, off, im.blocks[i]); err != nil {
			return err
		}
	}
	return nil
}

// patch puts what the journal has of a block into p, which was read from off.
func (im *image) patch(p []byte, off int64, number uint64) error {
	data, err := im.logged(im.copies[number])
	if err != nil {
		return err
	}
	if at := int64(number)*im.blockSize - off; at >= 0 {
		copy(p[at:], data)
	} else {
		copy(p, data[-at:])
	}
	return nil
}

// logged reads a block from the journal.
func (im *image) logged(l logged) ([]byte, error) {
	data := make([]byte, im.blockSize)
	if _, err := im.dev.ReadAt(data, int64(l.at)*im.blockSize); err != nil {
		return nil, fmt.Errorf("read block %d of the journal: %w", l.at, err)
	}
	if l.escaped {
		ext4.Unescape(data)
	}
	return data, nil
}
