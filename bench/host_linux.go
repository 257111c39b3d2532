package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// warm puts the files into the page cache anew, page by page. How a file was
// written decides otherwise into how large folios it is cached, and in large ones a
// write of 4 KiB cost a server up to four times as much (ext4, Linux 6.18): what
// would be compared are the files' histories.
func (b *bench) warm() error {
	return b.eachImage(func(f *os.File) error {
		if err := f.Sync(); err != nil {
			return err
		}
		fd := int(f.Fd())
		if err := errors.Join(unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED), unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM)); err != nil {
			return err
		}
		return eachData(f, readPages)
	})
}

// eachData calls do on the parts of a file that have blocks.
func eachData(f *os.File, do func(f *os.File, from, to int64) error) error {
	for off := int64(0); ; {
		from, err := f.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		if off, err = f.Seek(from, unix.SEEK_HOLE); err != nil {
			return err
		}
		if err := do(f, from, off); err != nil {
			return err
		}
	}
}

// readPages reads each page of a range, several at a time.
func readPages(f *os.File, from, to int64) error {
	const readers = 16
	var all sync.WaitGroup
	problems := make([]error, readers)
	for i := range readers {
		all.Go(func() {
			page := make([]byte, 4*kib)
			for off := from + int64(i*len(page)); off+int64(len(page)) <= to && problems[i] == nil; off += readers * int64(len(page)) {
				_, problems[i] = f.ReadAt(page, off)
			}
		})
	}
	all.Wait()
	return errors.Join(problems...)
}

// syncAll writes out what every process has written.
func syncAll() { unix.Sync() }

// peakOf is the most memory that a command had resident, KiB.
func peakOf(cmd *exec.Cmd) int64 {
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		return u.Maxrss
	}
	return 0
}

// allocated is what a file takes on the disk, bytes.
func allocated(info fs.FileInfo) int64 { return info.Sys().(*syscall.Stat_t).Blocks * 512 }
