package guest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// blkflsbuf is the ioctl BLKFLSBUF: write back and drop a block device's page cache.
const blkflsbuf = 0x1261

// Service is what the host calls.
type Service struct{}

// Run runs a script with busybox sh.
func (Service) Run(c Command, r *Result) error {
	cmd := exec.Command("/bin/sh", "-c", c.Script)
	cmd.Dir = "/root"
	out, err := cmd.CombinedOutput()
	r.Output = out
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		r.Status = exit.ExitCode()
		return nil
	}
	return err
}

// Write performs the writes in order and makes them durable together. Between
// them they lie in the page cache, so the kernel sees them as it sees a
// program's: some merged, many in flight at once.
func (Service) Write(writes []Write, _ *struct{}) error {
	files := map[string]*os.File{}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for _, w := range writes {
		f := files[w.Path]
		if f == nil {
			flags := os.O_RDWR
			if w.Mode != 0 {
				flags |= os.O_CREATE
			}
			var err error
			if f, err = os.OpenFile(w.Path, flags, fs.FileMode(w.Mode)); err != nil {
				return err
			}
			files[w.Path] = f
		}
		if _, err := f.WriteAt(w.Data, w.Off); err != nil {
			return err
		}
	}
	var failed error
	for _, f := range files {
		failed = errors.Join(failed, f.Sync(), drop(f))
	}
	return failed
}

// Read reads from the device itself: what its page cache holds may be older
// than a table that was swapped below it.
func (Service) Read(r Read, data *[]byte) error {
	f, err := os.Open(r.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := drop(f); err != nil {
		return err
	}
	if r.Len < 0 {
		end, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		r.Len = end - r.Off
	}
	*data = make([]byte, r.Len)
	_, err = f.ReadAt(*data, r.Off)
	if r.Len == 0 {
		return nil
	}
	return err
}

// Release makes sure that nothing in the machine uses the disks, and drops
// what the kernel knows of their content.
func (Service) Release(disks []string, _ *struct{}) error {
	for _, d := range disks {
		holders, err := os.ReadDir("/sys/class/block/" + filepath.Base(d) + "/holders")
		if err != nil {
			return err
		}
		if len(holders) > 0 {
			return fmt.Errorf("%s is still in use by %s", d, holders[0].Name())
		}
		// O_EXCL fails on a mounted disk.
		f, err := os.OpenFile(d, os.O_RDWR|syscall.O_EXCL, 0)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), drop(f), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// Off writes everything back and powers the machine off. The call does not
// return an answer; the port closes.
func (Service) Off(_ struct{}, _ *struct{}) error {
	PowerOff()
	return nil
}

// drop empties a block device's page cache. Regular files have none to drop.
func drop(f *os.File) error {
	info, err := f.Stat()
	if err != nil || info.Mode()&fs.ModeDevice == 0 {
		return err
	}
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), blkflsbuf, 0); e != 0 {
		return &fs.PathError{Op: "ioctl BLKFLSBUF", Path: f.Name(), Err: e}
	}
	return nil
}
