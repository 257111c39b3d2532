package overlay

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/errs"
	"cowl/internal/format/ovlabel"
)

// What identifies a member of a base, in ovlabel.Member's numbers:
//
//	           a file                         a disk
//	Device     0: it changes with reboots     what the disk says it is, hashed
//	Inode      the inode's number             which boot, and which attachment in it, hashed
//	Changed    mtime in ns                    sectors written and discarded since then
//	Status     ctime in ns                    0
//
// and for both the size and a hash of sampled ranges.

const (
	// edgeBytes is how much of both ends is sampled: partition tables and
	// superblocks are there.
	edgeBytes = 64 << 10
	// samples is how many ranges of sampleBytes in between are.
	samples     = 32
	sampleBytes = 4096
)

// identify finds out what an open file or disk is and holds. What was written
// to it is sent to the disk first: a power cut must not undo the times of what
// is recorded here, and a disk counts what has arrived.
func identify(f *file.Device) (ovlabel.Member, error) {
	if err := f.Sync(); err != nil {
		return ovlabel.Member{}, fmt.Errorf("identify %s: %w", f.Path(), err)
	}
	m, err := numbers(f)
	if err != nil {
		return m, fmt.Errorf("identify %s: %w", f.Path(), err)
	}
	m.Size = f.Size()
	m.Samples, err = sample(f)
	return m, err
}

// sample hashes the ends of a device and ranges in between.
func sample(dev block.Device) (sum [32]byte, err error) {
	h := sha256.New()
	size := dev.Size()
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(size)))
	buf := make([]byte, edgeBytes)
	read := func(off, n int64) {
		if err == nil {
			_, err = dev.ReadAt(buf[:n], off)
			h.Write(buf[:n])
		}
	}
	read(0, min(size, edgeBytes))
	if middle := size - 2*edgeBytes; middle > 0 {
		for i := range int64(samples) {
			at := edgeBytes + middle/samples*i/sampleBytes*sampleBytes
			read(at, min(sampleBytes, size-at))
		}
	}
	if size > edgeBytes {
		n := min(size-edgeBytes, edgeBytes)
		read(size-n, n)
	}
	if err != nil {
		return sum, fmt.Errorf("sample the base: %w", err)
	}
	h.Sum(sum[:0])
	return sum, nil
}

// hash makes a number of a text.
func hash(text string) uint64 {
	sum := sha256.Sum256([]byte(text))
	return binary.LittleEndian.Uint64(sum[:])
}

// differs says in what a member is not what it was, "" if in nothing that can
// be seen.
func differs(was, now ovlabel.Member) string {
	switch {
	case was.Kind != now.Kind:
		return "was a file and is a disk, or the other way round"
	case was.Size != now.Size:
		return fmt.Sprintf("has %d bytes and had %d", now.Size, was.Size)
	case was.Samples != now.Samples:
		return "has another content"
	case was.Kind == ovlabel.Disk:
		return diskDiffers(was, now)
	case was.Inode != now.Inode:
		return "is another file by the same name"
	case was.Changed != now.Changed:
		return fmt.Sprintf("was written at %s", timeText(now.Changed))
	case was.Status != now.Status:
		return fmt.Sprintf("was changed at %s, if only in its name or permissions", timeText(now.Status))
	}
	return ""
}

func diskDiffers(was, now ovlabel.Member) string {
	switch {
	case was.Device != now.Device:
		return "is another disk"
	case was.Inode == now.Inode && was.Changed != now.Changed:
		return "was written"
	}
	return "" // or the count began anew
}

func timeText(ns uint64) string {
	return time.Unix(0, int64(ns)).Format("2006-01-02 15:04:05.000 -0700")
}

// errChanged is what a base that is not what it was ends with.
func errChanged(path, what string) error {
	return errs.WithHint(errs.E(errs.Conflict, "the base has changed: %s %s", path, what),
		"The overlay shows nonsense on another base. If its content is the same all the same: cowl overlay rebase")
}
