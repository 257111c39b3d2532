package manager

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/block/linear"
	"cowl/internal/errs"
	"cowl/internal/format/parttable"
)

// A device is named by its path. A partition inside an image file, or of a disk
// for which the kernel has made no device, is named by the disk's path, # and
// the partition's number: disk.img#5 is what /dev/sda5 would be if disk.img
// were /dev/sda. A file that has such a name itself takes precedence.

// partitionName returns the name of a partition.
func partitionName(disk string, number int) string { return disk + "#" + strconv.Itoa(number) }

// splitName returns the file behind a device name, and the partition in it, 0
// for the whole.
func splitName(name string) (path string, partition int) {
	if _, err := os.Stat(name); err == nil {
		return name, 0
	}
	at := strings.LastIndexByte(name, '#')
	if at < 1 {
		return name, 0
	}
	n, err := strconv.ParseUint(name[at+1:], 10, 16)
	if err != nil || n == 0 {
		return name, 0
	}
	return name[:at], int(n)
}

// absolute returns the name that the device has in every directory.
func absolute(name string) string {
	if abs, err := filepath.Abs(name); err == nil {
		return abs
	}
	return name
}

// canonical returns one spelling for all names of a device: without symbolic
// links.
func canonical(name string) string {
	path, partition := splitName(absolute(name))
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if partition > 0 {
		return partitionName(path, partition)
	}
	return path
}

// OpenDevice opens an image file, a block device, or a partition of either, for
// reading and without a lock.
func OpenDevice(name string) (block.Device, error) {
	return OpenDisk(name, func(path string) (block.Device, error) { return file.Open(path, file.Options{ReadOnly: true}) })
}

// OpenDisk is OpenDevice of what open makes of a file: of an image in a format, its
// content.
func OpenDisk(name string, open func(path string) (block.Device, error)) (block.Device, error) {
	path, partition := splitName(name)
	dev, err := open(path)
	if err != nil {
		return nil, err
	}
	part, err := partitionOf(dev, name, partition)
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return opened{part, dev}, nil
}

// opened is a device, or a partition of one, that closes the disk below it.
type opened struct {
	block.Device
	disk block.Device
}

// Close implements block.Device. A partition has nothing of its own to close.
func (o opened) Close() error { return o.disk.Close() }

// deviceSet is a number of open devices. Partitions of one disk share it, and
// its lock.
type deviceSet struct {
	options file.Options
	disks   map[string]*disk // by canonical path
	members map[string]*disk // by canonical name, partitions among them
}

// disk is an open file with those of its partitions that are in use.
type disk struct {
	path  string
	dev   *file.Device
	users int
}

func newDeviceSet(o file.Options) *deviceSet {
	return &deviceSet{options: o, disks: map[string]*disk{}, members: map[string]*disk{}}
}

// open returns the device, which stays the set's.
func (s *deviceSet) open(name string) (block.Device, error) {
	key := canonical(name)
	path, partition := splitName(key)
	d := s.disks[path]
	if d == nil {
		dev, err := file.Open(path, s.options)
		if err != nil {
			return nil, explain(name, err)
		}
		d = &disk{path: path, dev: dev}
		s.disks[path] = d
	}
	dev, err := partitionOf(d.dev, name, partition)
	if err != nil {
		s.drop(d)
		return nil, err
	}
	if s.members[key] == nil {
		s.members[key] = d
		d.users++
	}
	return dev, nil
}

// explain puts LVM2's words before an error for a device that is not there.
func explain(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errs.E(errs.NotFound, "No device found for %s.", name)
	}
	return err
}

// partitionOf returns a whole disk or a partition of it.
func partitionOf(disk block.Device, name string, partition int) (block.Device, error) {
	if partition == 0 {
		return disk, nil
	}
	parts, err := parttable.Read(disk, disk.Size())
	for _, p := range parts { // also of a damaged table
		if p.Number == partition {
			return linear.Section(disk, p.Start, p.Len)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return nil, errs.E(errs.NotFound, "No device found for %s: the disk has no partition %d.", name, partition)
}

// release closes a device's file unless another partition of it is in use.
func (s *deviceSet) release(name string) {
	key := canonical(name)
	if d := s.members[key]; d != nil {
		delete(s.members, key)
		d.users--
		s.drop(d)
	}
}

func (s *deviceSet) drop(d *disk) {
	if d.users == 0 {
		d.dev.Close()
		delete(s.disks, d.path)
	}
}

// releaseAll releases what this set opened and another does not share.
func (s *deviceSet) releaseAll() {
	for name := range s.members {
		s.release(name)
	}
}

// absorb takes over what another set opened.
func (s *deviceSet) absorb(o *deviceSet) {
	for path, d := range o.disks {
		s.disks[path] = d
	}
	for name, d := range o.members {
		s.members[name] = d
	}
}

// close closes all.
func (s *deviceSet) close() error {
	var problems []error
	for _, d := range s.disks {
		problems = append(problems, d.dev.Close())
	}
	clear(s.disks)
	clear(s.members)
	return errors.Join(problems...)
}

// pollInterval is how often a device that somebody holds is tried again.
const pollInterval = 30 * time.Millisecond

// patiently calls try until it gives something else than errs.Busy, or the
// patience of the Host or the context is at its end.
func (h *Host) patiently(ctx context.Context, try func() error) error {
	deadline := time.Now().Add(h.o.Wait)
	for {
		err := try()
		if !errs.Is(err, errs.Busy) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollInterval):
		}
	}
}

// lockDevices opens devices for this process alone.
func (h *Host) lockDevices(ctx context.Context, names []string) (*deviceSet, error) {
	set := newDeviceSet(lockOptions)
	for _, name := range names {
		err := h.patiently(ctx, func() error { _, err := set.open(name); return err })
		if err != nil {
			set.close()
			return nil, err
		}
	}
	return set, nil
}

// lockOptions keep everybody else from a device: other cowl processes, and on
// a block device the kernel's mounts and mappings.
var lockOptions = file.Options{Lock: file.Exclusive}
