//go:build unix

package overlay

import (
	"syscall"

	"cowl/internal/block/file"
)

// diskBytes returns what a file takes in its file system.
func diskBytes(f *file.Device) int64 {
	info, err := f.Stat()
	if err != nil {
		return -1
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1
	}
	return st.Blocks * 512
}
