// Package pvlabel reads and writes what makes a device an LVM2 physical volume:
// one sector with the label, the PV header and the header's extension.
// docs/format/pv.md has the layout. It does no I/O.
package pvlabel

import (
	"bytes"
	"encoding/binary"

	"cowl/internal/errs"
	"cowl/internal/format/checksum"
)

const (
	// Size is the size of a label in bytes: one sector.
	Size = 512
	// Sectors is how many sectors, from the first, may hold the label.
	Sectors = 4
	// DefaultSector is where LVM2 and cowl put the label.
	DefaultSector = 1
	// ExtensionVersion is the version of the extension that is written today.
	ExtensionVersion = 2
	// FlagInUse is the extension's flag that says "belongs to a volume group",
	// so that a tool which cannot find the group's metadata does not take the
	// PV for a free one.
	FlagInUse = 1
)

const (
	magic     = "LABELONE"
	labelType = "LVM2 001"

	offSector    = 8
	offChecksum  = 16
	offSummed    = 20 // the checksum covers from here to the end
	offPVHeader  = 20 // the field that says where the PV header begins
	offType      = 24
	labelHeader  = 32 // bytes of the label, and where the PV header begins
	idLength     = 32
	offDevSize   = labelHeader + idLength
	offLocations = labelHeader + 40

	locationSize = 16

	maxDevSize = 1<<63 - 1 // so that every offset is an int64
)

// Area is a range of the device, in bytes from its start.
type Area struct {
	Offset uint64
	Size   uint64 // 0 for a data area: to the end of the device
}

// Label is a decoded label sector. In memory as on disk, sizes are in bytes.
type Label struct {
	Sector  uint64 // where the label stands, 0 to 3
	ID      string // the PV's identifier, 32 characters without dashes
	DevSize uint64 // 0 where old versions of LVM2 did not say
	Data    []Area // one: where physical extents begin
	MDAs    []Area // metadata areas, none to two

	// Version is the extension's, 0 where there is none (LVM2 before 2.02.99).
	Version    uint32
	Flags      uint32 // FlagInUse, and what others may have set
	Bootloader []Area // none or one
}

// InUse reports whether the PV says that it belongs to a group.
func (l *Label) InUse() bool { return l.Flags&FlagInUse != 0 }

// SetInUse sets or clears FlagInUse. A PV that has no extension, or one that
// is too old for flags, gets today's.
func (l *Label) SetInUse(on bool) {
	if !on {
		l.Flags &^= FlagInUse
		return
	}
	l.Flags |= FlagInUse
	l.Version = max(l.Version, ExtensionVersion)
}

// Present reports whether the sector begins as a label does. It says nothing
// of whether the label is whole.
func Present(sector []byte) bool {
	return bytes.HasPrefix(sector, []byte(magic))
}

// Decode reads a label from a sector that was read at the given position.
// Without a label the error is of kind errs.NotFound, with one that is
// damaged or of another type errs.Corrupt or errs.Unsupported.
func Decode(sector []byte, at uint64) (*Label, error) {
	if len(sector) != Size {
		return nil, errs.E(errs.Usage, "read label: a sector has %d bytes, got %d", Size, len(sector))
	}
	if !Present(sector) {
		return nil, errs.E(errs.NotFound, "read label: no label at sector %d", at)
	}
	le := binary.LittleEndian
	if got := le.Uint64(sector[offSector:]); got != at {
		return nil, errs.E(errs.Corrupt, "read label: the label at sector %d says that it is at sector %d", at, got)
	}
	if want, got := checksum.LVM(sector[offSummed:]), le.Uint32(sector[offChecksum:]); got != want {
		return nil, errs.E(errs.Corrupt, "read label: bad checksum at sector %d (want %#08x, got %#08x)", at, want, got)
	}
	if got := sector[offType : offType+len(labelType)]; string(got) != labelType {
		return nil, errs.E(errs.Unsupported, "read label: the label at sector %d is of type %q, not %q", at, got, labelType)
	}
	if got := le.Uint32(sector[offPVHeader:]); got != labelHeader {
		return nil, errs.E(errs.Corrupt, "read label: PV header at byte %d of sector %d (want %d)", got, at, labelHeader)
	}

	l := &Label{
		Sector:  at,
		ID:      string(sector[labelHeader:offDevSize]),
		DevSize: le.Uint64(sector[offDevSize:]),
	}
	rest := sector[offLocations:]
	var err error
	if l.Data, rest, err = areas(rest, "data areas"); err != nil {
		return nil, err
	}
	if l.MDAs, rest, err = areas(rest, "metadata areas"); err != nil {
		return nil, err
	}
	if err := l.decodeExtension(rest); err != nil {
		return nil, err
	}
	return l, l.Validate()
}

// decodeExtension reads what follows the PV header, which older versions of
// LVM2 left zero.
func (l *Label) decodeExtension(b []byte) (err error) {
	if len(b) < 8 {
		return nil
	}
	l.Version = binary.LittleEndian.Uint32(b)
	if l.Version == 0 {
		return nil
	}
	l.Flags = binary.LittleEndian.Uint32(b[4:])
	l.Bootloader, _, err = areas(b[8:], "bootloader areas")
	return err
}

// areas reads a list that ends with an entry whose offset is zero, and returns
// what follows it.
func areas(b []byte, what string) (list []Area, rest []byte, err error) {
	for len(b) >= locationSize {
		a := Area{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])}
		b = b[locationSize:]
		if a.Offset == 0 {
			return list, b, nil
		}
		list = append(list, a)
	}
	return nil, nil, errs.E(errs.Corrupt, "read PV header: the list of %s does not end within the sector", what)
}

// Validate checks what holds of every label: a position among the first
// sectors, an identifier of LVM's characters, areas within the device.
func (l *Label) Validate() error {
	if l.Sector >= Sectors {
		return errs.E(errs.Corrupt, "PV header: label at sector %d (want 0 to %d)", l.Sector, Sectors-1)
	}
	if !validID(l.ID) {
		return errs.E(errs.Corrupt, "PV header: bad identifier %q", l.ID)
	}
	if l.Version == 0 && (l.Flags != 0 || len(l.Bootloader) > 0) {
		return errs.E(errs.Corrupt, "PV header %s: flags or a bootloader area need an extension", l.ID)
	}
	if l.DevSize > maxDevSize {
		return errs.E(errs.Corrupt, "PV header %s: a device of %d bytes", l.ID, l.DevSize)
	}
	if len(l.Data) > 1 {
		return errs.E(errs.Unsupported, "PV header %s: %d data areas (want at most 1)", l.ID, len(l.Data))
	}
	if len(l.MDAs) > 2 {
		return errs.E(errs.Unsupported, "PV header %s: %d metadata areas (want at most 2)", l.ID, len(l.MDAs))
	}
	end := l.DevSize
	if end == 0 {
		end = maxDevSize
	}
	for _, list := range [][]Area{l.Data, l.MDAs, l.Bootloader} {
		for _, a := range list {
			if a.Offset == 0 || a.Offset > end || a.Size > end-a.Offset {
				return errs.E(errs.Corrupt, "PV header %s: area of %d bytes at %d is outside the device's %d bytes",
					l.ID, a.Size, a.Offset, end)
			}
		}
	}
	if n := l.encodedSize(); n > Size {
		return errs.E(errs.Corrupt, "PV header %s: %d bytes do not fit a sector", l.ID, n)
	}
	return nil
}

// validID reports whether id has the length and the characters of LVM2's
// identifiers.
func validID(id string) bool {
	for i := range len(id) {
		c := id[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '!' && c != '#' {
			return false
		}
	}
	return len(id) == idLength
}

// encodedSize counts list ends as entries, and the extension if there is one.
func (l *Label) encodedSize() int {
	n := offLocations + (len(l.Data)+1+len(l.MDAs)+1)*locationSize
	if l.Version != 0 {
		n += 8 + (len(l.Bootloader)+1)*locationSize
	}
	return n
}

// Encode returns the sector. Whatever the fields do not fill is zero. An
// invalid label gives Validate's error.
func (l *Label) Encode() ([]byte, error) {
	if err := l.Validate(); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	b := make([]byte, 0, Size)
	b = append(b, magic...)
	b = le.AppendUint64(b, l.Sector)
	b = le.AppendUint32(b, 0) // checksum, below
	b = le.AppendUint32(b, labelHeader)
	b = append(b, labelType...)

	b = append(b, l.ID...)
	b = le.AppendUint64(b, l.DevSize)
	b = appendAreas(b, l.Data)
	b = appendAreas(b, l.MDAs)
	if l.Version != 0 {
		b = le.AppendUint32(b, l.Version)
		b = le.AppendUint32(b, l.Flags)
		b = appendAreas(b, l.Bootloader)
	}
	b = b[:Size]
	le.PutUint32(b[offChecksum:], checksum.LVM(b[offSummed:]))
	return b, nil
}

func appendAreas(b []byte, list []Area) []byte {
	for _, a := range append(list[:len(list):len(list)], Area{}) {
		b = binary.LittleEndian.AppendUint64(b, a.Offset)
		b = binary.LittleEndian.AppendUint64(b, a.Size)
	}
	return b
}
