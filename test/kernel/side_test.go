//go:build linux

package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"cowl/internal/block"
)

// stack is one origin with snapshots, as image files: what cowl and the
// kernel hand to each other.
type stack struct {
	origin string
	cows   []string
	chunk  int64 // bytes
}

// newStack makes the images: an origin of zeroes and unused COW devices.
// Sizes are in bytes.
func newStack(t *testing.T, chunk, origin int64, cows ...int64) *stack {
	t.Helper()
	dir := t.TempDir()
	s := &stack{origin: sparse(t, filepath.Join(dir, "origin"), origin), chunk: chunk}
	for i, size := range cows {
		s.cows = append(s.cows, sparse(t, filepath.Join(dir, fmt.Sprint("cow", i)), size))
	}
	return s
}

func (s *stack) images() []string { return append([]string{s.origin}, s.cows...) }

func sparse(t *testing.T, path string, size int64) string {
	t.Helper()
	f, err := os.Create(path)
	if err == nil {
		err = f.Truncate(size)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// write is data for the origin (dev -1) or a snapshot (its number).
type write struct {
	dev  int
	off  int64
	data []byte
}

// side is who runs a stack: cowl's engine or the kernel's device-mapper.
// Errors are the devices'; what the side itself gets wrong ends the test.
type side interface {
	name() string

	// open takes a stack into use with the numbered snapshots attached.
	open(s *stack, snapshots ...int)
	// shut gives it back, everything durable.
	shut()

	// create attaches a new, empty snapshot of the origin as it is.
	create(snapshot int)
	// remove detaches a snapshot.
	remove(snapshot int)

	// write performs writes in order and flushes.
	write(ws []write) error
	// discard says that a range of the origin is not needed, if that is
	// supported. Nobody knows what it reads as afterwards.
	discard(off, length int64)
	// zero makes a range of a device zeroes, by the device's own operation.
	zero(dev int, off, length int64) error
	// read returns a whole device.
	read(dev int) ([]byte, error)

	// status is a snapshot's status as dmsetup words it: "16/8192 16".
	status(snapshot int) string

	// merge makes a snapshot merge into the origin from now on. The snapshot
	// itself is gone. mergeSome goes on until a part of the exceptions is
	// merged and stops abruptly, as a power cut or a kill would; the stack is
	// given back. mergePause stops in good order, wherever it is, and gives the
	// stack back. mergeAll finishes.
	merge(snapshot int)
	mergeSome()
	mergePause()
	mergeAll()
	// openMerging opens a stack in whose middle a merge was stopped.
	openMerging(s *stack, merging int, snapshots ...int)
}

// sectors formats bytes as dmsetup does.
func sectors(bytes int64) int64 { return bytes / block.SectorSize }
