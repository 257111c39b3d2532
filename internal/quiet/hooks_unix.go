//go:build unix

package quiet

import (
	"os/exec"
	"syscall"
)

// ownGroup makes a command and its children end together when its context
// does. A Ctrl-C in the terminal does not reach them: that is for cowl, which
// ends them, or lets after-snapshot finish.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}

// canStandBy tells whether there is a shell that can wait for our end.
const canStandBy = true

// ownSession keeps signals of our terminal away from a command.
func ownSession(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }
