// Package ovlabel is the codec of an overlay's label: what cowl writes into
// the header chunk of an exception store, behind the sector that the kernel
// reads, to know which base the store belongs to. It does no I/O.
//
// There are two slots, so that a label is replaced by writing the older one: a
// power cut in between leaves the other. docs/format/overlay.md has the tables.
package ovlabel

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"strings"

	"cowl/internal/errs"
)

const (
	// Off is where the first slot begins in the store's first chunk, bytes.
	Off = 512
	// SlotSize is the size of a slot, bytes: three sectors, so that no sector
	// belongs to both.
	SlotSize = 1536
	// Size is what both slots take.
	Size = 2 * SlotSize
	// MinChunk is the smallest chunk that has room for them, bytes.
	MinChunk = 4096

	magic      = "COWLOVLY"
	version    = 1
	fixedSize  = 64
	memberSize = 80

	// MaxMembers is how many files a base may consist of.
	MaxMembers = 8
)

// Format is what the base's bytes mean. It is decided once: whoever writes to
// a raw image can make it look like anything.
type Format uint32

// The formats.
const (
	Raw   Format = 1
	Qcow2 Format = 2
)

// State is how far an overlay is.
type State uint32

// The states.
const (
	Live State = 0
	// Merging: chunks are on their way into the base, which therefore is not
	// what it was.
	Merging State = 1
)

// Kind is what a member is for the operating system.
type Kind uint32

// The kinds.
const (
	File Kind = 1
	Disk Kind = 2
)

// Member identifies one file or disk that a base consists of, and what it
// held. Which numbers stand in Device, Inode, Changed and Status depends on
// the kind and is the business of package overlay; they are compared only.
type Member struct {
	Kind    Kind
	Device  uint64
	Inode   uint64
	Size    int64 // bytes
	Changed uint64
	Status  uint64
	Samples [32]byte // SHA-256 of sampled ranges
}

// Label is what an overlay knows of itself.
type Label struct {
	Sequence uint64 // of two labels the higher counts
	State    State
	Format   Format
	// Anywhere lets a base's backing files be outside of its directory.
	Anywhere bool
	Size     int64 // bytes of the base as its users see it
	Created  int64 // seconds since 1970, UTC
	Path     string
	// Members are the base's files: the first is at Path, each further one is
	// what the one before is backed by.
	Members []Member
}

const flagAnywhere = 1

// Validate returns errs.Usage if the label cannot be written.
func (l *Label) Validate() error {
	switch {
	case l.Path == "" || strings.ContainsRune(l.Path, 0):
		return errs.E(errs.Usage, "overlay label: the base's path %q is none", l.Path)
	case len(l.Members) == 0 || len(l.Members) > MaxMembers:
		return errs.E(errs.Usage, "overlay label: the base has %d files, 1 to %d are allowed", len(l.Members), MaxMembers)
	case l.size() > SlotSize:
		return errs.E(errs.Usage, "overlay label: the base's path has %d bytes, %d is the most", len(l.Path), SlotSize-fixedSize-len(l.Members)*memberSize)
	case l.Size <= 0:
		return errs.E(errs.Usage, "overlay label: a base of %d bytes", l.Size)
	case l.Format != Raw && l.Format != Qcow2:
		return errs.E(errs.Usage, "overlay label: format %d", l.Format)
	case l.State > Merging:
		return errs.E(errs.Usage, "overlay label: state %d", l.State)
	}
	for i, m := range l.Members {
		if m.Kind != File && m.Kind != Disk || m.Size < 0 {
			return errs.E(errs.Usage, "overlay label: file %d of the base is of kind %d and %d bytes", i, m.Kind, m.Size)
		}
	}
	return nil
}

func (l *Label) size() int { return fixedSize + len(l.Members)*memberSize + len(l.Path) }

// Encode returns the label as a slot.
func (l *Label) Encode() ([]byte, error) {
	if err := l.Validate(); err != nil {
		return nil, err
	}
	b := make([]byte, SlotSize)
	le := binary.LittleEndian
	copy(b, magic)
	le.PutUint32(b[8:], version)
	le.PutUint32(b[12:], uint32(l.size()))
	le.PutUint32(b[20:], uint32(l.State))
	le.PutUint64(b[24:], l.Sequence)
	le.PutUint64(b[32:], uint64(l.Size))
	le.PutUint64(b[40:], uint64(l.Created))
	le.PutUint32(b[48:], uint32(l.Format))
	if l.Anywhere {
		le.PutUint32(b[52:], flagAnywhere)
	}
	le.PutUint32(b[56:], uint32(len(l.Members)))
	le.PutUint32(b[60:], uint32(len(l.Path)))
	at := fixedSize
	for _, m := range l.Members {
		m.encode(b[at:])
		at += memberSize
	}
	copy(b[at:], l.Path)
	le.PutUint32(b[16:], sum(b))
	return b, nil
}

func (m *Member) encode(b []byte) {
	le := binary.LittleEndian
	le.PutUint32(b, uint32(m.Kind))
	for i, v := range []uint64{m.Device, m.Inode, uint64(m.Size), m.Changed, m.Status} {
		le.PutUint64(b[8+8*i:], v)
	}
	copy(b[48:], m.Samples[:])
}

func decodeMember(b []byte) Member {
	le := binary.LittleEndian
	m := Member{
		Kind:    Kind(le.Uint32(b)),
		Device:  le.Uint64(b[8:]),
		Inode:   le.Uint64(b[16:]),
		Size:    int64(le.Uint64(b[24:])),
		Changed: le.Uint64(b[32:]),
		Status:  le.Uint64(b[40:]),
	}
	copy(m.Samples[:], b[48:])
	return m
}

// sum is the checksum over a whole slot, with zeroes in the checksum's place.
func sum(slot []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	c := crc32.Update(0, table, slot[:16])
	c = crc32.Update(c, table, make([]byte, 4))
	return crc32.Update(c, table, slot[20:])
}

// decode decodes a slot. One that holds no label is errs.NotFound, one of a
// later version errs.Unsupported.
func decode(b []byte) (*Label, error) {
	le := binary.LittleEndian
	if string(b[:8]) != magic {
		return nil, errs.E(errs.NotFound, "no overlay label")
	}
	if v := le.Uint32(b[8:]); v != version {
		return nil, errs.E(errs.Unsupported, "overlay label of version %d: this cowl knows version %d", v, version)
	}
	if want, got := le.Uint32(b[16:]), sum(b); want != got {
		return nil, errs.E(errs.Corrupt, "overlay label: bad checksum (want %08x, got %08x)", want, got)
	}
	l := &Label{
		State:    State(le.Uint32(b[20:])),
		Sequence: le.Uint64(b[24:]),
		Size:     int64(le.Uint64(b[32:])),
		Created:  int64(le.Uint64(b[40:])),
		Format:   Format(le.Uint32(b[48:])),
		Anywhere: le.Uint32(b[52:])&flagAnywhere != 0,
	}
	members, path := le.Uint32(b[56:]), le.Uint32(b[60:])
	if members > MaxMembers || path > SlotSize || fixedSize+members*memberSize+path != le.Uint32(b[12:]) || le.Uint32(b[12:]) > SlotSize {
		return nil, errs.E(errs.Corrupt, "overlay label: %d files and a path of %d bytes do not make %d bytes", members, path, le.Uint32(b[12:]))
	}
	at := fixedSize
	for range members {
		l.Members = append(l.Members, decodeMember(b[at:]))
		at += memberSize
	}
	l.Path = string(b[at : at+int(path)])
	again, err := l.Encode()
	if err != nil {
		return nil, errs.E(errs.Corrupt, "%w", err)
	}
	if !bytes.Equal(b, again) {
		return nil, errs.E(errs.Corrupt, "overlay label: something stands where nothing may")
	}
	return l, nil
}

// Decode returns the label that counts of the Size bytes behind a store's
// first sector, and which slot is to be written next. One damaged slot is
// what a power cut leaves. Without any label the error is errs.NotFound; with
// damaged ones only, errs.Corrupt.
func Decode(b []byte) (l *Label, next int, err error) {
	if len(b) < Size {
		return nil, 0, errs.E(errs.Corrupt, "overlay label: %d bytes, want %d", len(b), Size)
	}
	for i := range 2 {
		s, slotErr := decode(b[i*SlotSize:][:SlotSize])
		switch {
		case slotErr == nil && (l == nil || s.Sequence > l.Sequence):
			l, next = s, 1-i
		case errs.Is(slotErr, errs.Unsupported):
			return nil, 0, slotErr // a later cowl's word may be the one that counts
		case slotErr != nil && (err == nil || errs.Is(err, errs.NotFound)):
			err = slotErr
		}
	}
	if l == nil {
		return nil, 0, err
	}
	return l, next, nil
}

// SlotOff returns where a slot begins in the store's first chunk, bytes.
func SlotOff(slot int) int64 { return Off + int64(slot)*SlotSize }
