package kerneltest

import "syscall"

// diesWithParent makes the kernel kill qemu when the test's process dies,
// however it dies.
func diesWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
