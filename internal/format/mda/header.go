// Package mda reads and writes the header of an LVM2 metadata area, and knows
// where in the area's circular buffer the next metadata text goes.
// docs/format/metadata.md has the layout and the commit protocol. It does no
// I/O and does not know what the text says.
package mda

import (
	"encoding/binary"

	"cowl/internal/errs"
	"cowl/internal/format/checksum"
)

// HeaderSize is the size of the header, and the unit in which texts are
// placed and padded, in bytes. The circular buffer is the rest of the area.
const HeaderSize = 512

// The slots of a header.
const (
	Committed    = 0 // the text that counts
	Precommitted = 1 // a text that is about to; only between two steps of a commit
)

const (
	magic   = "\x20\x4c\x56\x4d\x32\x20\x78\x5b\x35\x41\x25\x72\x30\x4e\x2a\x3e"
	version = 1

	offSummed   = 4 // the checksum stands before and covers the rest
	offMagic    = 4
	offVersion  = 20
	offStart    = 24
	offSize     = 32
	offSlots    = 40
	slotSize    = 24
	flagIgnored = 1
)

// Locn says where a text lies ("raw_locn"). The zero Locn means no text.
type Locn struct {
	Offset   uint64 // bytes from the start of the area, header included
	Length   uint64 // bytes, with the NUL that ends the text
	Checksum uint32 // of those bytes
	Flags    uint32
}

// None reports whether the slot holds no text. Flags may be set all the same.
func (l Locn) None() bool { return l.Offset == 0 }

// Ignored reports whether the metadata area is not to be used: it keeps a
// text, but group changes no longer reach it.
func (l Locn) Ignored() bool { return l.Flags&flagIgnored != 0 }

// WithIgnored returns the Locn with the ignored flag set or cleared.
func (l Locn) WithIgnored(on bool) Locn {
	l.Flags &^= flagIgnored
	if on {
		l.Flags |= flagIgnored
	}
	return l
}

// Header is a decoded metadata area header.
type Header struct {
	Start uint64 // of the area, bytes from the start of the device
	Size  uint64 // of the area with its header, bytes
	Slots [2]Locn
}

// Decode reads a header from the HeaderSize bytes at byte start of a device.
// Its error is of kind errs.Corrupt or errs.Unsupported. What the slots point
// to is not judged here (see CheckLocn): a header whose precommitted slot is
// nonsense is still good for its committed one.
func Decode(b []byte, start uint64) (*Header, error) {
	if len(b) != HeaderSize {
		return nil, errs.E(errs.Usage, "read metadata area header: a header has %d bytes, got %d", HeaderSize, len(b))
	}
	le := binary.LittleEndian
	if want, got := checksum.LVM(b[offSummed:]), le.Uint32(b); got != want {
		return nil, errs.E(errs.Corrupt, "read metadata area header at byte %d: bad checksum (want %#08x, got %#08x)", start, want, got)
	}
	if got := b[offMagic : offMagic+len(magic)]; string(got) != magic {
		return nil, errs.E(errs.Corrupt, "read metadata area header at byte %d: bad magic %q", start, got)
	}
	if got := le.Uint32(b[offVersion:]); got != version {
		return nil, errs.E(errs.Unsupported, "read metadata area header at byte %d: version %d (want %d)", start, got, version)
	}
	if got := le.Uint64(b[offStart:]); got != start {
		return nil, errs.E(errs.Corrupt, "read metadata area header at byte %d: it says that it is at byte %d", start, got)
	}
	h := &Header{Start: start, Size: le.Uint64(b[offSize:])}
	for i := range h.Slots {
		s := b[offSlots+i*slotSize:]
		h.Slots[i] = Locn{le.Uint64(s), le.Uint64(s[8:]), le.Uint32(s[16:]), le.Uint32(s[20:])}
	}
	return h, h.Validate()
}

// Validate checks that the area has room for a text and that its end can be
// computed.
func (h *Header) Validate() error {
	if h.Size < MinSize {
		return errs.E(errs.Corrupt, "metadata area at byte %d: %d bytes are too small (want at least %d)", h.Start, h.Size, MinSize)
	}
	if h.Size > maxArea || h.Start > maxArea {
		return errs.E(errs.Corrupt, "metadata area at byte %d: impossible size of %d bytes", h.Start, h.Size)
	}
	if h.Size%HeaderSize != 0 {
		return errs.E(errs.Unsupported, "metadata area at byte %d: %d bytes are not whole sectors", h.Start, h.Size)
	}
	return nil
}

// Encode returns the header's HeaderSize bytes. What the slots do not fill is
// zero.
func (h *Header) Encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, HeaderSize)
	b = le.AppendUint32(b, 0) // checksum, below
	b = append(b, magic...)
	b = le.AppendUint32(b, version)
	b = le.AppendUint64(b, h.Start)
	b = le.AppendUint64(b, h.Size)
	for _, s := range h.Slots {
		b = le.AppendUint64(b, s.Offset)
		b = le.AppendUint64(b, s.Length)
		b = le.AppendUint32(b, s.Checksum)
		b = le.AppendUint32(b, s.Flags)
	}
	b = b[:HeaderSize]
	le.PutUint32(b, checksum.LVM(b[offSummed:]))
	return b
}
