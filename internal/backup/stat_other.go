//go:build !unix

package backup

import "os"

// allocated is what a file takes on its disk, as far as can be told: its size.
func allocated(st os.FileInfo) int64 { return st.Size() }
