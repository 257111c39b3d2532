package metastore

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"cowl/internal/errs"
	"cowl/internal/format/vgtext"
	"cowl/internal/volume"
)

// Options are what a Store needs of the world. All may be left out.
type Options struct {
	// Writer says who writes, and why, at each change. Without it that is
	// cowl, now, for no stated reason.
	Writer func() Writer

	// BackupDir and ArchiveDir are where copies of the metadata are kept as
	// files, LVM2's backup/ and archive/: the current one of each group, and
	// those before each change. "" keeps none.
	BackupDir, ArchiveDir string
}

// Writer is who changes a group.
type Writer struct {
	Command string // the command line, for descriptions
	Program string // "cowl version 0.1"
	Host    string
	Kernel  string // "Linux host 6.1.0 ...", for a remark, may be ""
	Time    time.Time
}

// signature returns what a text says of its writing, with a description that
// has the command in LVM2's words.
func (w Writer) signature(description string) vgtext.Signature {
	if w.Command == "" {
		description = ""
	}
	return vgtext.Signature{Description: description, Program: w.Program, Host: w.Host, Kernel: w.Kernel, Time: w.Time}
}

func anonymous() Writer {
	host, _ := os.Hostname()
	return Writer{Program: "cowl", Host: host, Time: time.Now()}
}

// Store is a volume group's metadata on its PVs. Its methods may be called in
// parallel; Precommit, Commit and Revert are one caller's, in that order. The
// devices stay the caller's, who keeps other writers away from them.
type Store struct {
	opts Options

	mu       sync.Mutex
	group    *volume.Group // as committed, nil before the first commit
	text     []byte        // the same; nil if it was not read or written yet
	pvs      map[volume.UUID]*PV
	pending  *pending // between Precommit and Commit or Revert
	lost     []lost   // Commits that failed since the last one that did not
	warnings []string
}

// lost is what a Commit that failed may have written all the same, to some
// areas. Its sequence number is taken.
type lost struct {
	seqno uint64
	text  []byte
}

// pending is a change that is staged.
type pending struct {
	group *volume.Group
	text  []byte // with its NUL
	areas []*area
}

// Open returns a store over a group that was found.
func Open(f *Found, o Options) (*Store, error) {
	if f.Unusable != nil {
		return nil, f.Unusable
	}
	s := newStore(o)
	s.group = f.Group.Clone()
	for _, pv := range f.PVs {
		if pv == nil {
			continue
		}
		s.pvs[pv.ID()] = pv
		for _, m := range pv.MDAs {
			if m.group == f.Group {
				s.text = m.Text
			}
		}
	}
	return s, nil
}

// New returns a store for a group that is not there yet, over PVs of no group.
// The first commit creates it.
func New(pvs []*PV, o Options) (*Store, error) {
	s := newStore(o)
	for _, pv := range pvs {
		if err := s.attach(pv); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func newStore(o Options) *Store {
	if o.Writer == nil {
		o.Writer = anonymous
	}
	return &Store{opts: o, pvs: map[volume.UUID]*PV{}}
}

// Attach makes a PV of no group available to the next Precommit, whose group
// takes it in.
func (s *Store) Attach(pv *PV) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attach(pv)
}

func (s *Store) attach(pv *PV) error {
	if other := s.pvs[pv.ID()]; other != nil && other != pv {
		return errs.E(errs.Exists, "%s and %s are both PV %s", other.Path, pv.Path, pv.ID())
	}
	for _, m := range pv.MDAs {
		if m.Text != nil && !m.Ignored {
			return errs.E(errs.Conflict, "Physical volume '%s' is already in a volume group", pv.Path)
		}
	}
	s.pvs[pv.ID()] = pv
	return nil
}

// Detach takes back Attach, for a PV that no commit has taken in.
func (s *Store) Detach(id volume.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.group == nil || s.group.PVByID(id) == nil {
		delete(s.pvs, id)
	}
}

// Group returns a clone of the committed group, nil before the first commit.
func (s *Store) Group() *volume.Group {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.group == nil {
		return nil
	}
	return s.group.Clone()
}

// PVs returns the group's PVs beside those of Group, nil where one is missing.
func (s *Store) PVs() []*PV {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.group == nil {
		return nil
	}
	pvs := make([]*PV, len(s.group.PVs))
	for i, pv := range s.group.PVs {
		pvs[i] = s.pvs[pv.ID]
	}
	return pvs
}

// Warnings returns what went wrong without stopping the changes since the last
// call: metadata areas that could not be written, a backup that was not made.
func (s *Store) Warnings() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.warnings
	s.warnings = nil
	return w
}

func (s *Store) warn(format string, args ...any) {
	s.warnings = append(s.warnings, fmt.Sprintf("WARNING: "+format, args...))
}

// Precommit stages a group as the next one: its text is on every metadata area
// and marked as precommitted when Precommit returns, and the old one still
// counts. vg stays the caller's and keeps its sequence number, which is the
// store's business. An error leaves everything as it was. It is of kind
// errs.NoSpace if the text is too large for an area, and errs.Conflict if
// the group on disk is no longer the one that was opened, or has PVs that are
// missing and not marked so.
//
// Areas that cannot be written are left out with a warning as long as there is
// one that can.
func (s *Store) Precommit(vg *volume.Group) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending != nil {
		return errs.E(errs.Conflict, "volume group %s: a change is staged already", vg.Name)
	}
	p, err := s.prepare(vg)
	if err != nil {
		return err
	}
	if err := s.archive(); err != nil {
		return err
	}
	if err := s.stage(p); err != nil {
		return err
	}
	s.pending = p
	return nil
}

// prepare makes the text and finds a place for it on every area. It writes
// nothing.
func (s *Store) prepare(vg *volume.Group) (*pending, error) {
	p := &pending{group: vg.Clone()}
	if err := s.collect(p); err != nil {
		return nil, err
	}
	if err := s.refresh(p.areas); err != nil {
		return nil, err
	}
	// Only now is it certain what the highest sequence number on disk is.
	p.group.Seqno = s.highestSeqno() + 1
	w := s.opts.Writer()
	vgtext.Sign(p.group, w.signature("Write from "+w.Command+"."))
	text, err := render(p.group)
	if err != nil {
		return nil, err
	}
	p.text = append(text, 0)
	return p, place(p)
}

// highestSeqno returns the highest sequence number that may be on disk, that of
// an area which cannot be seen now included.
func (s *Store) highestSeqno() uint64 {
	var n uint64
	if s.group != nil {
		n = s.group.Seqno
	}
	for _, l := range s.lost {
		n = max(n, l.seqno)
	}
	return n
}

// render encodes a group and makes sure that what will be on disk can be read
// back as the same: the last moment at which a mistake costs nothing.
func render(vg *volume.Group) ([]byte, error) {
	if err := volume.Validate(vg); err != nil {
		return nil, fmt.Errorf("refusing to write: %w", err)
	}
	text := vgtext.Encode(vg)
	back, err := vgtext.Decode(text)
	if err != nil {
		return nil, fmt.Errorf("refusing to write metadata that cannot be read back: %w", err)
	}
	if !bytes.Equal(vgtext.Encode(back), text) {
		return nil, errs.E(errs.Corrupt, "refusing to write metadata of volume group %s: it reads back as something else", vg.Name)
	}
	return text, nil
}

// collect finds the areas that the new text goes to, and brings the paths of
// PVs up to date.
func (s *Store) collect(p *pending) error {
	for _, listed := range p.group.PVs {
		pv := s.pvs[listed.ID]
		if pv == nil {
			if slices.Contains(listed.Status, volume.StatusMissing) {
				continue
			}
			return errs.WithHint(errs.E(errs.Conflict, "Cannot change VG %s while PVs are missing: %s (last written to %s)",
				p.group.Name, listed.ID, listed.Device), "Bring the device back, or see vgreduce --removemissing.")
		}
		if pv.Path != "" {
			listed.Device = pv.Path // a hint, and the newest is the best
		}
		for _, m := range pv.MDAs {
			if !m.Ignored {
				p.areas = append(p.areas, &area{MDA: m})
			}
		}
	}
	if len(p.areas) == 0 {
		return errs.E(errs.Conflict, "volume group %s: no metadata area in use on any of its physical volumes", p.group.Name)
	}
	return nil
}

// Commit makes the staged group the one that counts. After an error nobody can
// say which one does until the next change or the next Open has looked; then it
// is the old or the new one, whole.
func (s *Store) Commit() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pending
	if p == nil {
		return errs.E(errs.Conflict, "nothing is staged")
	}
	s.pending = nil
	if err := s.write(p.areas, (*area).commit); err != nil {
		s.lost = append(s.lost, lost{p.group.Seqno, p.text[:len(p.text)-1]})
		return fmt.Errorf("commit of volume group %s: %w", p.group.Name, err)
	}
	old := s.group
	s.group, s.text, s.lost = p.group, p.text[:len(p.text)-1], nil
	for _, a := range p.areas {
		if !a.failed {
			a.Text, a.Damaged = s.text, nil
		}
	}
	s.settle(old)
	s.backup()
	return nil
}

// Revert gives up the staged group.
func (s *Store) Revert() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pending
	if p == nil {
		return nil
	}
	s.pending = nil
	if err := s.write(p.areas, (*area).revert); err != nil {
		return fmt.Errorf("revert of volume group %s: %w", p.group.Name, err)
	}
	return nil
}

// settle marks the group's PVs as in use, and releases those that the old one
// had and it no longer has. What fails is repaired by a later commit or shows
// as a problem.
func (s *Store) settle(old *volume.Group) {
	var gone []*PV
	if old != nil {
		for _, listed := range old.PVs {
			if pv := s.pvs[listed.ID]; pv != nil && s.group.PVByID(listed.ID) == nil {
				gone = append(gone, pv)
				delete(s.pvs, listed.ID)
			}
		}
	}
	for _, pv := range gone {
		if err := pv.release(); err != nil {
			s.warn("PV %s still says that it is in VG %s: %v", pv.Path, s.group.Name, err)
		}
	}
	for _, listed := range s.group.PVs {
		if pv := s.pvs[listed.ID]; pv != nil {
			if err := pv.setInUse(true); err != nil {
				s.warn("PV %s does not say that it is in use: %v", pv.Path, err)
			}
		}
	}
}

// Remove takes the group off its PVs, which stay PVs. After a crash the group
// is there as it was, or gone. An error means that some PV still has it; Remove
// can be tried again.
func (s *Store) Remove() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.group == nil:
		return errs.E(errs.Conflict, "there is no volume group to remove")
	case s.pending != nil:
		return errs.E(errs.Conflict, "volume group %s: a change is staged", s.group.Name)
	}
	if err := s.archive(); err != nil {
		return err
	}
	var pvs []*PV
	for _, listed := range s.group.PVs {
		if pv := s.pvs[listed.ID]; pv != nil {
			pvs = append(pvs, pv)
		}
	}
	if err := releaseAll(pvs); err != nil {
		return fmt.Errorf("removal of volume group %s: %w", s.group.Name, err)
	}
	s.removeBackup()
	s.group, s.text = nil, nil
	clear(s.pvs)
	return nil
}
