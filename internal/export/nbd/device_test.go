package nbd

import (
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/mem"
)

// A volume that is reached over NBD must be the same device as one that is
// opened directly: backups and restores run over it.
func TestDeviceConforms(t *testing.T) {
	blocktest.Run(t, func(t *testing.T, size int64) block.Device {
		_, path := startServer(t, newShelf().with("vol", mem.New(size)))
		return dial(t, path, "vol")
	}, blocktest.Options{Zeroed: true})
}
