//go:build unix

package backup

import (
	"os"
	"syscall"
)

// allocated is what a file takes on its disk, in bytes.
func allocated(st os.FileInfo) int64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return sys.Blocks * 512
	}
	return st.Size()
}
