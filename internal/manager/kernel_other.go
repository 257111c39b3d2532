//go:build !linux

package manager

import "runtime"

func kernelVersion(host string) string { return runtime.GOOS + " " + host + " " + runtime.GOARCH }
