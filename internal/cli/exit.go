package cli

import (
	"errors"

	"cowl/internal/errs"
)

// The exit codes, as LVM's.
const (
	exitOK         = 0
	exitIncomplete = 1 // done, but for what standard error names: cowl's own
	exitDifferent  = 1 // diff found differences, as diff(1): cowl's own
	exitNoCommand  = 2 // no such command
	exitUsage      = 3 // the command line makes no sense
	exitInit       = 4 // initialisation failed: the environment, the devices file
	exitFailed     = 5 // the command failed
	exitSpace      = 6 // lvs --check found a snapshot that lacks space or is lost: cowl's own
)

// exitCodes is what each kind of error ends with. A kind that is not there
// ends with exitFailed.
var exitCodes = map[errs.Kind]int{
	errs.Usage: exitUsage,
}

// coded is an error with an exit code of its own, whatever its kind.
type coded struct {
	error
	code int
}

func (e coded) Unwrap() error { return e.error }

// exitCode returns what the error ends the process with.
func exitCode(err error) int {
	var c coded
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &c):
		return c.code
	case errs.OnlyWarnings(err):
		return exitIncomplete
	}
	if code, ok := exitCodes[errs.KindOf(err)]; ok {
		return code
	}
	return exitFailed
}

// errSilent ends a command that failed and has said so already.
var errSilent = errors.New("failed")
