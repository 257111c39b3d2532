package metastore

import "cowl/internal/volume"

// PVState is what can be said of a PV at one moment: values, which nobody
// changes any more.
type PVState struct {
	ID   volume.UUID
	Path string
	Size int64 // bytes, of the device
	MDAs []MDAState
}

// MDAState is one metadata area of a PV at one moment. All in bytes.
type MDAState struct {
	Offset, Size int64
	TextSize     int64 // of the committed metadata with its NUL, 0 if none
	Ignored      bool
	Damaged      string // why it cannot be used, "" if it can
}

// State describes a PV that belongs to no Store; one that does changes with
// its Store's commits, and Store.State describes it.
func (pv *PV) State() PVState {
	st := PVState{ID: pv.ID(), Path: pv.Path, Size: pv.Dev.Size()}
	for _, m := range pv.MDAs {
		a := MDAState{Offset: m.Offset, Size: m.Size, Ignored: m.Ignored}
		if m.Text != nil {
			a.TextSize = int64(len(m.Text)) + 1
		}
		if m.Damaged != nil {
			a.Damaged = m.Damaged.Error()
		}
		st.MDAs = append(st.MDAs, a)
	}
	return st
}

// State describes the group's PVs that are not missing, by identifier.
func (s *Store) State() map[volume.UUID]PVState {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := make(map[volume.UUID]PVState, len(s.pvs))
	for id, pv := range s.pvs {
		states[id] = pv.State()
	}
	return states
}
