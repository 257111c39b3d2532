//go:build !linux

package kerneltest

import "syscall"

func diesWithParent() *syscall.SysProcAttr { return nil }
