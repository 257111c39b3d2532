package engine

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"cowl/internal/block"
	"cowl/internal/volume"
)

// simState is what a group should hold: the plain model beside which the
// engine runs. It knows nothing of chunks but how many a store has room for.
type simState struct {
	lvs    map[string]*simLV
	faulty bool // a disk's operation has failed, so that any snapshot may be invalid
}

// simLV is a volume of the model.
type simLV struct {
	name string
	cur  []byte // what a read returns now

	// maybe has, of sectors written since the last flush, what else a power
	// cut may leave there. unknown are sectors that nobody ever wrote.
	maybe   map[int][][]byte
	unknown map[int]bool

	// Of a snapshot.
	origin    string
	chunk     int          // bytes
	room      int          // chunks of data that the store holds
	must, may map[int]bool // the origin's chunks that are, or may be, excepted
	crashed   bool         // a power cut is behind it: more may be missing in must
	invalid   bool         // seen to be, which is for good
	onFull    volume.OnFull
	orOnFull  volume.OnFull // while it is changed

	merging bool // its content is the origin's now, and it may be gone already
	delayed bool // merging once the origin's user closes it, or after a crash
}

const sector = block.SectorSize

func newSimLV(name string, size int) *simLV {
	lv := &simLV{name: name, cur: make([]byte, size), maybe: map[int][][]byte{}, unknown: map[int]bool{}}
	for s := zeroedBytes / sector; s < size/sector; s++ {
		lv.unknown[s] = true
	}
	return lv
}

func (st *simState) clone() *simState {
	next := &simState{lvs: map[string]*simLV{}, faulty: st.faulty}
	for name, lv := range st.lvs {
		c := *lv
		c.cur = bytes.Clone(lv.cur)
		c.maybe, c.unknown = maps.Clone(lv.maybe), maps.Clone(lv.unknown)
		c.must, c.may = maps.Clone(lv.must), maps.Clone(lv.may)
		next.lvs[name] = &c
	}
	return next
}

// names returns the names of the volumes that the function wants, sorted.
func (st *simState) names(want func(*simLV) bool) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(st.lvs)) {
		if want(st.lvs[name]) {
			out = append(out, name)
		}
	}
	return out
}

func (lv *simLV) isSnapshot() bool { return lv.origin != "" }

// snapshots returns the origin's, those that are merging last.
func (st *simState) snapshots(origin string) []*simLV {
	var out []*simLV
	for _, name := range st.names(func(lv *simLV) bool { return lv.origin == origin }) {
		out = append(out, st.lvs[name])
	}
	return out
}

func (st *simState) mergingInto(origin string) *simLV {
	for _, s := range st.snapshots(origin) {
		if s.merging || s.delayed {
			return s
		}
	}
	return nil
}

// keeper returns a snapshot that refuses its origin's writes rather than
// overflow, nil if there is none.
func (st *simState) keeper(origin string) *simLV {
	for _, s := range st.snapshots(origin) {
		readOnly := s.onFull == volume.OnFullReadOnly || s.orOnFull == volume.OnFullReadOnly
		if readOnly && !s.invalid && !s.merging {
			return s
		}
	}
	return nil
}

// put notes that a write has begun: from here on a power cut may leave each
// of its sectors old or new.
func (lv *simLV) put(p []byte, off int) {
	for s := off / sector; s*sector < off+len(p); s++ {
		lv.maybe[s] = append(slices.Clip(lv.maybe[s]), bytes.Clone(lv.sector(s)))
	}
	copy(lv.cur[off:], p)
	for s := (off + sector - 1) / sector; (s+1)*sector <= off+len(p); s++ {
		if lv.unknown[s] {
			// Until it is flushed, what nobody knows may come back.
			delete(lv.unknown, s)
			lv.maybe[s] = append(lv.maybe[s], nil)
		}
	}
}

func (lv *simLV) sector(s int) []byte { return lv.cur[s*sector : (s+1)*sector] }

// write changes a volume and tells its snapshots, which have to keep what was
// there. A write to what is still to be merged tells them only when it is.
func (st *simState) write(name string, p []byte, off int) {
	lv := st.lvs[name]
	lv.put(p, off)
	if lv.isSnapshot() {
		lv.except(off, len(p), lv.must, lv.may)
		return
	}
	merging := st.mergingInto(name)
	for _, s := range st.snapshots(name) {
		switch {
		case s == merging && s.merging:
		case merging != nil && merging.merging:
			s.except(off, len(p), s.may)
		default:
			s.except(off, len(p), s.must, s.may)
		}
	}
}

// except notes that chunks of the origin have been, or may have been, copied.
// What lies behind the snapshot's end, though in its last chunk, is not copied for.
func (lv *simLV) except(off, n int, sets ...map[int]bool) {
	if off >= len(lv.cur) {
		return
	}
	for c := off / lv.chunk; c*lv.chunk < min(off+n, len(lv.cur)); c++ {
		for _, set := range sets {
			set[c] = true
		}
	}
}

// flushed notes that a flush has returned.
func (lv *simLV) flushed() { clear(lv.maybe) }

// snapshot adds a snapshot of what the origin holds, which is flushed first.
func (st *simState) snapshot(origin, name string, chunk, room int) {
	o := st.lvs[origin]
	o.flushed()
	st.lvs[name] = &simLV{
		name: name, cur: bytes.Clone(o.cur), maybe: map[int][][]byte{}, unknown: maps.Clone(o.unknown),
		origin: origin, chunk: chunk, room: room, must: map[int]bool{}, may: map[int]bool{},
	}
}

// merge makes the origin hold what the snapshot does. The siblings are going
// to keep what it held.
func (st *simState) merge(name string) {
	s := st.lvs[name]
	o := st.lvs[s.origin]
	s.merging, s.delayed = true, false
	for _, other := range st.snapshots(s.origin) {
		if other == s {
			continue
		}
		for c := range s.may {
			other.except(c*s.chunk, min(s.chunk, len(s.cur)-c*s.chunk), other.may)
		}
	}
	copy(o.cur, s.cur) // an origin that has grown keeps the rest
	for i := range len(s.cur) / sector {
		delete(o.maybe, i)
		delete(o.unknown, i)
	}
	maps.Copy(o.maybe, s.maybe)
	maps.Copy(o.unknown, s.unknown)
}

// merged notes that a merge has ended.
func (st *simState) merged(name string) {
	s := st.lvs[name]
	delete(st.lvs, name)
	for _, other := range st.snapshots(s.origin) {
		if !other.crashed {
			other.must = maps.Clone(other.may)
		}
	}
}

// remove removes a volume and, of an origin, its snapshots.
func (st *simState) remove(name string) {
	for _, s := range st.snapshots(name) {
		delete(st.lvs, s.name)
	}
	delete(st.lvs, name)
}

// extend makes a volume larger.
func (lv *simLV) extend(size int) {
	for s := len(lv.cur) / sector; s < size/sector; s++ {
		lv.unknown[s] = true
	}
	lv.cur = append(lv.cur, make([]byte, size-len(lv.cur))...)
}

// afterCrash is what is found when the group is activated again: merges that
// waited for a user wait no longer.
func (st *simState) afterCrash() *simState {
	delayed := st.names(func(lv *simLV) bool { return lv.delayed && !lv.invalid })
	if len(delayed) == 0 {
		return st
	}
	next := st.clone()
	for _, name := range delayed {
		next.merge(name)
	}
	return next
}

// afterRecovery is the state with what a group was found to hold.
func (st *simState) afterRecovery(g *Group) *simState {
	next := st.clone()
	next.faulty = false
	status := g.Status()
	for _, name := range next.names(func(lv *simLV) bool { return !lv.merging }) {
		lv := next.lvs[name]
		lv.flushed()
		lv.onFull, lv.orOnFull = g.Model().LV(name).GrowthOf(volume.Growth{}).OnFull, ""
		lv.must, lv.crashed = map[int]bool{}, true
		if lv.isSnapshot() && status.LVs[name].Cow.Invalid {
			lv.invalid = true
			continue
		}
		got, err := content(g, name)
		if err != nil {
			panic(failure{fmt.Errorf("read %s: %w", name, err)})
		}
		lv.cur = got
		clear(lv.unknown)
	}
	return next
}

// candidates are the states one of which is found after a crash: a merge that
// has waited may have lost its store to an overflow that nobody saw yet.
func (st *simState) candidates() []*simState {
	out := []*simState{st.afterCrash()}
	for _, name := range st.names(func(lv *simLV) bool { return lv.delayed && !lv.invalid && (len(lv.may) > lv.room || st.faulty) }) {
		lost := st.clone()
		lost.lvs[name].invalid = true
		out = append(out, lost.afterCrash())
	}
	return out
}

// differs says how content differs from what the volume may hold, "" if it
// does not. Without a crash behind it, only the newest will do.
func (lv *simLV) differs(got []byte, crashed bool) string {
	if len(got) != len(lv.cur) {
		return fmt.Sprintf("%d bytes, want %d", len(got), len(lv.cur))
	}
	if bytes.Equal(got, lv.cur) {
		return ""
	}
	for s := range len(got) / sector {
		part := got[s*sector : (s+1)*sector]
		if bytes.Equal(part, lv.sector(s)) || lv.unknown[s] {
			continue
		}
		if crashed && slices.ContainsFunc(lv.maybe[s], func(old []byte) bool { return old == nil || bytes.Equal(part, old) }) {
			continue
		}
		return fmt.Sprintf("sector %d begins with %x, want %x (%d older versions would do after a crash)",
			s, part[:8], lv.sector(s)[:8], len(lv.maybe[s]))
	}
	return ""
}
