package repo

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/kopia/kopia/repo/blob"
)

// verifyState remembers, in a file, which blobs were found good.
type verifyState struct {
	path string
	f    *os.File
	good map[blob.ID]bool
}

// stateHeader begins the first line of such a file; the repository follows.
const stateHeader = "cowl verify 1 "

// openVerifyState reads what an interrupted run left, if it is of the same
// repository.
func openVerifyState(path, repoID string) (*verifyState, error) {
	s := &verifyState{path: path, good: map[blob.ID]bool{}}
	if path == "" {
		return s, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(f)
	if lines.Scan() && lines.Text() == stateHeader+repoID {
		for lines.Scan() {
			s.good[blob.ID(lines.Text())] = true
		}
	} else if err := errors.Join(f.Truncate(0), rewind(f)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if len(s.good) == 0 {
		_, err = fmt.Fprintln(f, stateHeader+repoID)
	}
	if _, seekErr := f.Seek(0, io.SeekEnd); err != nil || seekErr != nil {
		return nil, errors.Join(err, seekErr, f.Close())
	}
	s.f = f
	return s, nil
}

func rewind(f *os.File) error {
	_, err := f.Seek(0, io.SeekStart)
	return err
}

func (s *verifyState) has(id blob.ID) bool { return s.good[id] }

func (s *verifyState) add(id blob.ID) error {
	if s.f == nil {
		return nil
	}
	_, err := fmt.Fprintln(s.f, id)
	return err
}

func (s *verifyState) remove() error {
	if s.f == nil {
		return nil
	}
	return os.Remove(s.path)
}

func (s *verifyState) close() {
	if s.f != nil {
		s.f.Close()
	}
}
