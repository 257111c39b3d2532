package quiet

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"

	"cowl/internal/errs"
)

// standby is a process that runs after-snapshot in this one's place if this one is
// killed, SIGKILL included: what before-snapshot stopped goes on all the same. It
// learns of that by the end of its standard input. It ends with the machine, or if
// it is killed as well, as a service manager does at last with all of a service.
type standby struct {
	cmd  *exec.Cmd
	tell io.WriteCloser
}

// errKilled is what after-snapshot hears of when the standby runs it.
var errKilled = errs.E(errs.Other, "cowl was killed")

// standbyScript gets the command and, in seconds, how long a hook may take. A hook
// that is yet running comes first: before-snapshot might else stop things when
// after-snapshot has been. Signals to all of a session or a service are for the one
// that does the work.
const standbyScript = `trap '' HUP INT TERM
while read -r word; do
	[ "$word" != dismiss ] || exit 0
	hook=$word
done
left=$2
while [ -n "$hook" ] && kill -0 "$hook" 2>/dev/null; do
	[ "$left" -gt 0 ] || { kill -9 -- "-$hook"; break; }
	sleep 1
	left=$((left - 1))
done
exec /bin/sh -c "$1"
`

// newStandby starts one if there is something to stop and to let go on again; nil
// otherwise. It is to tell after-snapshot that this process was killed.
func (h *Hooks) newStandby(about Subject) (*standby, error) {
	command := h.Commands[AfterSnapshot]
	if command == "" || h.Commands[BeforeSnapshot] == "" || !canStandBy {
		return nil, nil
	}
	seconds := int(h.limit() / time.Second)
	cmd := exec.Command("/bin/sh", "-c", standbyScript, "cowl-standby", command, strconv.Itoa(seconds))
	cmd.Env = AfterSnapshot.environment(about, ResultEnv(errKilled))
	ownSession(cmd)
	if f, ok := h.Output.(*os.File); ok { // anything else would end with us
		cmd.Stdout, cmd.Stderr = f, f
	}
	tell, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start what runs after-snapshot if cowl is killed: %w", err)
	}
	return &standby{cmd, tell}, nil
}

// watch names the process of a hook that is running.
func (s *standby) watch(pid int) {
	if s != nil {
		fmt.Fprintln(s.tell, pid) // one that was killed does not matter before we are
	}
}

// dismiss ends it: after-snapshot was run.
func (s *standby) dismiss() {
	if s == nil {
		return
	}
	fmt.Fprintln(s.tell, "dismiss")
	s.tell.Close()
	_ = s.cmd.Wait()
}
