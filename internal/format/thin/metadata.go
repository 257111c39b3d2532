package thin

import (
	"fmt"
	"io"
	"iter"

	"cowl/internal/errs"
)

// Metadata is one state of a pool's metadata, which does not change.
type Metadata struct {
	// Superblock is that of the state.
	Superblock *Superblock

	r          io.ReaderAt
	blocks     uint64 // of the metadata device
	dataBlocks uint64
}

// Open opens the metadata on a device of size bytes as the last commit left it:
// of a pool that is not in use.
func Open(r io.ReaderAt, size int64) (*Metadata, error) {
	m := &Metadata{r: r, blocks: uint64(max(size, 0)) / BlockSize}
	var err error
	if m.Superblock, err = m.superblock(0); err != nil {
		return nil, err
	}
	m.dataBlocks = m.Superblock.DataBlocks
	return m, nil
}

// OpenHeld opens the state that the kernel was asked to keep. The pool may be in
// use. errs.NotFound: there is none.
func OpenHeld(r io.ReaderAt, size int64) (*Metadata, error) {
	m, err := Open(r, size)
	if err != nil {
		return nil, err
	}
	at := m.Superblock.Held
	if at == 0 {
		return nil, errs.E(errs.NotFound, "thin pool metadata: no state is reserved")
	}
	live := m.Superblock
	if m.Superblock, err = m.superblock(at); err != nil {
		return nil, err
	}
	if m.Superblock.BlockBytes != live.BlockBytes {
		return nil, corrupt("data blocks have %d bytes, in the reserved state %d", live.BlockBytes, m.Superblock.BlockBytes)
	}
	return m, nil
}

// read reads a block.
func (m *Metadata) read(at uint64) ([]byte, error) {
	if at >= m.blocks {
		return nil, corrupt("block %d is outside of the device's %d", at, m.blocks)
	}
	b := make([]byte, BlockSize)
	if n, err := m.r.ReadAt(b, int64(at)*BlockSize); n < BlockSize {
		return nil, fmt.Errorf("thin pool metadata: read block %d: %w", at, err)
	}
	return b, nil
}

func (m *Metadata) superblock(at uint64) (*Superblock, error) {
	b, err := m.read(at)
	if err != nil {
		return nil, err
	}
	return DecodeSuperblock(b, at)
}

func (m *Metadata) node(at uint64) (node, error) {
	b, err := m.read(at)
	if err != nil {
		return node{}, err
	}
	return decodeNode(b, at)
}

// Device is a thin volume. Transaction and times tell it from another that had
// its number before.
type Device struct {
	ID          uint64
	Mapped      uint64 // blocks
	Transaction uint64 // of the pool, when it was made
	Created     uint32 // the pool's time then
	Snapshotted uint32 // the pool's time when a snapshot was taken of it last
}

// Devices walks the thin volumes, by number.
func (m *Metadata) Devices() iter.Seq2[Device, error] {
	return func(yield func(Device, error) bool) {
		t, err := m.openTree(m.Superblock.Details, detailsSize)
		if err != nil {
			yield(Device{}, err)
			return
		}
		for c := t.cursor(); ; c.next() {
			ok, err := c.entry()
			if err != nil {
				yield(Device{}, err)
			}
			if !ok || !yield(decodeDevice(c.low, c.value()), nil) {
				return
			}
		}
	}
}

// Device returns a thin volume. errs.NotFound: there is none of that number.
func (m *Metadata) Device(id uint64) (Device, error) {
	t, err := m.openTree(m.Superblock.Details, detailsSize)
	if err != nil {
		return Device{}, err
	}
	v, err := t.find(id)
	if errs.Is(err, errs.NotFound) {
		return Device{}, errs.E(errs.NotFound, "thin pool metadata: there is no device %d", id)
	}
	if err != nil {
		return Device{}, err
	}
	return decodeDevice(id, v), nil
}

func decodeDevice(id uint64, b []byte) Device {
	return Device{ID: id, Mapped: le.Uint64(b), Transaction: le.Uint64(b[8:]), Created: le.Uint32(b[16:]), Snapshotted: le.Uint32(b[20:])}
}

// Mapping is where a block of a thin volume lies. A block without one reads as
// zeroes.
type Mapping struct {
	Data uint64 // block of the pool's data device
	Time uint32 // the pool's, when it was mapped
}

// mapping decodes a value: 40 bits of block, 24 of time.
func (m *Metadata) mapping(b []byte) (Mapping, error) {
	v := le.Uint64(b)
	p := Mapping{Data: v >> 24, Time: uint32(v & (1<<24 - 1))}
	if p.Data >= m.dataBlocks {
		return p, corrupt("data block %d is outside of the pool's %d", p.Data, m.dataBlocks)
	}
	return p, nil
}

// mappings opens the tree from blocks of a thin volume to their mappings.
func (m *Metadata) mappings(id uint64) (tree, error) {
	all, err := m.openTree(m.Superblock.Mappings, rootSize)
	if err != nil {
		return tree{}, err
	}
	v, err := all.find(id)
	if errs.Is(err, errs.NotFound) {
		return tree{}, errs.E(errs.NotFound, "thin pool metadata: there are no mappings of device %d", id)
	}
	if err != nil {
		return tree{}, err
	}
	return m.openTree(le.Uint64(v), mappingSize)
}

// Mappings walks the mapped blocks of a thin volume, in ascending order.
func (m *Metadata) Mappings(id uint64) iter.Seq2[uint64, error] {
	return func(yield func(uint64, error) bool) {
		t, err := m.mappings(id)
		if err != nil {
			yield(0, err)
			return
		}
		for c := t.cursor(); ; c.next() {
			ok, err := c.entry()
			if ok {
				_, err = m.mapping(c.value())
			}
			if err != nil {
				yield(0, err)
				return
			}
			if !ok || !yield(c.low, nil) {
				return
			}
		}
	}
}
