package metastore

import (
	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/format/mda"
	"cowl/internal/format/pvlabel"
	"cowl/internal/volume"
)

// Source is a device that may hold a PV, with the path that people know it by.
type Source struct {
	Path string
	Dev  block.Device
}

// PV is a physical volume as it was found on a device.
type PV struct {
	Path  string
	Dev   block.Device
	Label pvlabel.Label
	MDAs  []*MDA // those of the label, usable or not
}

// ID returns the PV's identifier.
func (pv *PV) ID() volume.UUID { return volume.UUID(pv.Label.ID) }

// InUse reports whether the PV header says that the PV belongs to a group.
func (pv *PV) InUse() bool { return pv.Label.InUse() }

// DataStart returns where the PV's extents begin, in bytes.
func (pv *PV) DataStart() int64 {
	if len(pv.Label.Data) == 0 {
		return 0
	}
	return int64(pv.Label.Data[0].Offset)
}

// DataEnd returns where the PV's extents end at most, in bytes: at the end of
// the device, or at a metadata area behind them.
func (pv *PV) DataEnd() int64 {
	end := uint64(pv.devSize())
	if len(pv.Label.Data) > 0 && pv.Label.Data[0].Size > 0 {
		end = min(end, pv.Label.Data[0].Offset+pv.Label.Data[0].Size)
	}
	for _, a := range pv.Label.MDAs {
		if int64(a.Offset) >= pv.DataStart() {
			end = min(end, a.Offset)
		}
	}
	return int64(end)
}

// devSize returns the device's size as the PV header has it; old versions of
// LVM2 left it 0.
func (pv *PV) devSize() int64 {
	if pv.Label.DevSize == 0 {
		return pv.Dev.Size()
	}
	return int64(pv.Label.DevSize)
}

// Spec returns what a group needs to know in order to take the PV in.
func (pv *PV) Spec() volume.PVSpec {
	s := volume.PVSpec{
		ID:       pv.ID(),
		Device:   pv.Path,
		DevSize:  sectors(pv.devSize()),
		PEStart:  sectors(pv.DataStart()),
		DataSize: sectors(pv.DataEnd() - pv.DataStart()),
	}
	if len(pv.Label.Bootloader) > 0 {
		s.BAStart = sectors(int64(pv.Label.Bootloader[0].Offset))
		s.BASize = sectors(int64(pv.Label.Bootloader[0].Size))
	}
	return s
}

func sectors(bytes int64) volume.Sectors { return volume.Sectors(max(0, bytes) / block.SectorSize) }

// MDA is one metadata area of a PV.
type MDA struct {
	PV      *PV
	Offset  int64 // bytes from the start of the device
	Size    int64 // bytes, header included
	Ignored bool  // not to be used, as pvchange --metadataignore sets it

	// Damaged says why the area's metadata cannot be used, nil if it can. A
	// damage of kind errs.Corrupt is repaired by the next commit.
	Damaged error

	// Text is the committed text without its NUL, nil where there is none.
	Text []byte

	header *mda.Header   // nil if it cannot be read
	group  *volume.Group // what Text says, once Assemble has read it
}

// Free returns how many bytes a text could still grow, as LVM2 counts them for
// its reports: none in an area that is ignored.
func (m *MDA) Free() int64 {
	if m.header == nil || m.Ignored {
		return 0
	}
	used := mda.Padded(m.header.Slots[mda.Committed].Length)
	most := mda.MaxText(m.header.Size)
	if used > most {
		return 0
	}
	return int64((most - used) / mda.HeaderSize * mda.HeaderSize)
}

// damage notes why the area cannot be used. The header, if one could be read,
// stays known.
func (m *MDA) damage(err error) {
	m.Text, m.group = nil, nil
	m.Damaged = err
}

// writable reports whether a commit may write to the area: a header of a kind
// that cowl does not know, or one that cannot be read at all, is left alone.
func (m *MDA) writable() bool {
	return m.Damaged == nil || errs.Is(m.Damaged, errs.Corrupt)
}
