package metastore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cowl/internal/format/vgtext"
)

// LVM2's defaults for how long archive files are kept: the last so many in any
// case, and others for so long.
const (
	archiveKeep = 10
	archiveAge  = 30 * 24 * time.Hour
)

// archive saves the committed metadata before it changes. Without that a
// change does not begin.
func (s *Store) archive() error {
	if s.opts.ArchiveDir == "" || s.group == nil {
		return nil
	}
	w := s.opts.Writer()
	old, err := archived(s.opts.ArchiveDir, s.group.Name)
	if err != nil {
		return fmt.Errorf("archive metadata of volume group %s: %w", s.group.Name, err)
	}
	index := 0
	if len(old) > 0 {
		index = old[len(old)-1].index + 1
	}
	name := fmt.Sprintf("%s_%05d-%d.vg", s.group.Name, index, rand.Uint32())
	text := vgtext.EncodeBackup(s.group, w.signature("Created *before* executing '"+w.Command+"'"))
	if err := writeFile(s.opts.ArchiveDir, name, text); err != nil {
		return fmt.Errorf("archive metadata of volume group %s: %w", s.group.Name, err)
	}
	s.prune(old, w.Time)
	return nil
}

// backup saves the metadata that was just committed.
func (s *Store) backup() {
	if s.opts.BackupDir == "" {
		return
	}
	w := s.opts.Writer()
	text := vgtext.EncodeBackup(s.group, w.signature("Created *after* executing '"+w.Command+"'"))
	if err := writeFile(s.opts.BackupDir, s.group.Name, text); err != nil {
		s.warn("no backup of the metadata of volume group %s: %v", s.group.Name, err)
	}
}

// removeBackup follows the group's removal; the archive keeps what there was.
func (s *Store) removeBackup() {
	if s.opts.BackupDir == "" {
		return
	}
	if err := os.Remove(filepath.Join(s.opts.BackupDir, s.group.Name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.warn("backup of volume group %s not removed: %v", s.group.Name, err)
	}
}

// archiveFile is a file that archive made: VG_NNNNN-R.vg, with an index and a
// random number, which keeps two hosts that share a directory apart.
type archiveFile struct {
	path  string
	index int
	time  time.Time
}

// archived lists a group's archive files by index. A directory that is not
// there has none.
func archived(dir, group string) ([]archiveFile, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var files []archiveFile
	for _, e := range entries {
		index, ok := archiveIndex(e.Name(), group)
		if !ok {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue // it went away
		}
		files = append(files, archiveFile{filepath.Join(dir, e.Name()), index, info.ModTime()})
	}
	slices.SortFunc(files, func(a, b archiveFile) int { return a.index - b.index })
	return files, nil
}

// archiveIndex takes the index out of an archive file's name.
func archiveIndex(name, group string) (int, bool) {
	rest, ok := strings.CutPrefix(name, group+"_")
	if !ok {
		return 0, false
	}
	rest, ok = strings.CutSuffix(rest, ".vg")
	number, random, dash := strings.Cut(rest, "-")
	if _, err := strconv.ParseUint(random, 10, 64); !ok || !dash || err != nil {
		return 0, false
	}
	index, err := strconv.ParseUint(number, 10, 31)
	return int(index), err == nil
}

// prune removes archive files that are neither recent nor among the last.
func (s *Store) prune(old []archiveFile, now time.Time) {
	for i := 0; i < len(old)-(archiveKeep-1); i++ { // one was just added
		if now.Sub(old[i].time) <= archiveAge {
			continue
		}
		if err := os.Remove(old[i].path); err != nil && !errors.Is(err, os.ErrNotExist) {
			s.warn("old archive file not removed: %v", err)
		}
	}
}

// writeFile puts a file in its place at once: after a crash there is the old
// one or the new one.
func writeFile(dir, name string, data []byte) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".cowl-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	if d, err := os.Open(dir); err == nil {
		d.Sync() // not every system can flush a directory; the file is whole in any case
		d.Close()
	}
	return nil
}
