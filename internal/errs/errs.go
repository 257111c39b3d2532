// Package errs classifies errors. A kind decides the errno that an export
// answers and the exit code that a command ends with; text is for people and
// is never matched.
package errs

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// Kind says what sort of failure an error is.
type Kind uint8

// The kinds. Other is everything that nobody classified, I/O errors above all.
const (
	Other       Kind = iota
	Usage            // the command line or request makes no sense as given
	NotFound         // the named thing does not exist
	Exists           // the name is taken
	Busy             // in use, locked, or owned by another process
	NoSpace          // not enough free extents, chunks or bytes
	Corrupt          // bytes on disk that cannot be what they claim to be
	Conflict         // the state of things forbids it (read-only, merging, wrong base)
	Unsupported      // valid, but not something cowl does
	Denied           // the operating system refused permission
)

var kindNames = [...]string{"other", "usage", "not-found", "exists", "busy", "no-space", "corrupt", "conflict", "unsupported", "denied"}

// String returns the kind's name as it crosses the control socket.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return kindNames[Other]
}

// ParseKind is the inverse of Kind.String; unknown names give Other.
func ParseKind(name string) Kind {
	for i, n := range kindNames {
		if n == name {
			return Kind(i)
		}
	}
	return Other
}

// classified is an error with a kind and, where there is something that a
// person can do next, a hint.
type classified struct {
	kind Kind
	err  error
	hint string
}

func (e *classified) Error() string { return e.err.Error() }
func (e *classified) Unwrap() error { return e.err }

// E returns an error of the given kind. The format is fmt.Errorf's, %w included.
func E(kind Kind, format string, args ...any) error {
	return &classified{kind: kind, err: fmt.Errorf(format, args...)}
}

// WithHint attaches what to do next, one sentence that names the command or
// option. A nil err stays nil.
func WithHint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &classified{kind: KindOf(err), err: err, hint: fmt.Sprintf(format, args...)}
}

// KindOf returns the kind of the outermost classified error in err's chain,
// and otherwise what the operating system's error amounts to.
func KindOf(err error) Kind {
	var c *classified
	switch {
	case err == nil:
		return Other
	case errors.As(err, &c):
		return c.kind
	case errors.Is(err, fs.ErrNotExist):
		return NotFound
	case errors.Is(err, fs.ErrExist):
		return Exists
	case errors.Is(err, fs.ErrPermission):
		return Denied
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return NoSpace
	case errors.Is(err, syscall.EBUSY), errors.Is(err, syscall.ETXTBSY):
		return Busy
	}
	return Other
}

// Is reports whether err is of the kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }

// HintOf returns the outermost hint in err's chain, "" without one.
func HintOf(err error) string {
	for err != nil {
		var c *classified
		if !errors.As(err, &c) {
			return ""
		}
		if c.hint != "" {
			return c.hint
		}
		err = c.err
	}
	return ""
}
