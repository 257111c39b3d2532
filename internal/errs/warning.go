package errs

// warning is something that went wrong beside what was to be done.
type warning struct{ err error }

func (w *warning) Error() string { return w.err.Error() }
func (w *warning) Unwrap() error { return w.err }

// Warning marks an error as a warning: what was asked for is done all the same.
// nil stays nil.
func Warning(err error) error {
	if err == nil {
		return nil
	}
	return &warning{err}
}

// OnlyWarnings reports whether all that is in an error are warnings. Of nil it is
// false.
func OnlyWarnings(err error) bool {
	switch e := err.(type) {
	case nil:
		return false
	case *warning:
		return true
	case interface{ Unwrap() []error }:
		for _, part := range e.Unwrap() {
			if !OnlyWarnings(part) {
				return false
			}
		}
		return len(e.Unwrap()) > 0
	case interface{ Unwrap() error }:
		return OnlyWarnings(e.Unwrap())
	}
	return false
}
