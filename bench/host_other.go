//go:build !linux

package main

import (
	"io/fs"
	"os/exec"
)

// Only Linux has the page cache that these are about; elsewhere the benchmark
// builds, and measures less.

func (b *bench) warm() error { return nil }

func syncAll() {}

func peakOf(*exec.Cmd) int64 { return 0 }

func allocated(info fs.FileInfo) int64 { return info.Size() }
