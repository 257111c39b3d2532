package guest

import (
	"syscall"
	"unsafe"
)

// initModule is init_module(2) without parameters.
func initModule(text []byte) error {
	params := []byte{0}
	_, _, e := syscall.Syscall(syscall.SYS_INIT_MODULE,
		uintptr(unsafe.Pointer(&text[0])), uintptr(len(text)), uintptr(unsafe.Pointer(&params[0])))
	if e != 0 {
		return e
	}
	return nil
}
