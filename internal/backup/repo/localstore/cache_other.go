//go:build !linux

package localstore

import "os"

// dropCache has no equivalent here: reading back may be answered from memory.
func dropCache(*os.File) {}
