package daemon

import (
	"encoding/json"
	"os"
	"strconv"
	"sync"

	"cowl/internal/errs"
	"cowl/internal/manager"
)

// readyVariable names the environment variable by which Spawn tells its child
// which file descriptor to report on.
const readyVariable = "COWL_READY_FD"

// Readiness tells the process that spawned this one how the start went: once,
// whoever reports first. A nil Readiness, of a daemon that somebody started
// by hand, reports to nobody.
type Readiness struct {
	once sync.Once
	pipe *os.File
}

// InheritReadiness returns the readiness pipe that Spawn left to this
// process, nil if there is none. The variable is gone afterwards, so that
// processes which the daemon starts do not take it for theirs.
func InheritReadiness() (*Readiness, error) {
	value, ok := os.LookupEnv(readyVariable)
	if !ok {
		return nil, nil
	}
	os.Unsetenv(readyVariable)
	fd, err := strconv.Atoi(value)
	if err != nil || fd < 3 {
		return nil, errs.E(errs.Usage, "%s=%q is no file descriptor", readyVariable, value)
	}
	f := os.NewFile(uintptr(fd), "readiness pipe")
	if fi, err := f.Stat(); err != nil || fi.Mode()&os.ModeNamedPipe == 0 {
		return nil, errs.E(errs.Usage, "%s=%q is no pipe", readyVariable, value)
	}
	closeOnExec(f)
	return &Readiness{pipe: f}, nil
}

// Report says what activation had to say and, if the daemon could not start,
// why. Whether anybody still listens does not matter to a daemon.
func (r *Readiness) Report(res *manager.Result, err error) {
	if r == nil {
		return
	}
	r.once.Do(func() {
		json.NewEncoder(r.pipe).Encode(reply{Result: res, Error: encodeError(err)})
		r.pipe.Close()
	})
}
