package manager

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"cowl/internal/block/file"
	"cowl/internal/errs"
	"cowl/internal/volume"
)

// A devices file lists the devices that may be looked at, in LVM2's format:
//
//	# comment
//	VERSION=1.1.7
//	IDTYPE=loop_file IDNAME=/home/u/disk.img DEVNAME=/home/u/disk.img PVID=... PART=1
//
// IDTYPE and IDNAME say how the device is recognised, DEVNAME what it was called
// when it was last seen, PVID whose label it had ("." if none), PART which
// partition it is. For a file, cowl writes LVM2's loop_file, which LVM2 finds
// when the file is attached to a loop device, and for a block device devname.
// Blanks, backslashes and control characters in names are written as \040 and
// so on, as in /proc/mounts; LVM2 has no names with blanks.

// entry is one line of a devices file.
type entry struct {
	idType, idName string
	devName        string
	id             volume.UUID // "" if unknown
	part           int         // 0 if none
	unknown        []string    // fields that cowl does not know, written back
}

// The IDTYPEs that cowl writes.
const (
	idFile    = "loop_file"
	idDevName = "devname"
)

// devicesFileVersion is what cowl writes as VERSION: LVM2's, whose last part
// counts changes.
const devicesFileVersion = "1.1."

// devicesList is a devices file's content.
type devicesList struct {
	changes uint64
	entries []entry
}

// blanks stand between fields and around lines. Others are part of names.
const blanks = " \t\r"

// parseDevices reads a devices file. Lines that make no sense are left out and
// named in the warnings.
func parseDevices(path string, text []byte) (devicesList, []string) {
	var l devicesList
	var warnings []string
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.Trim(line, blanks)
		switch {
		case line == "" || line[0] == '#':
		case strings.HasPrefix(line, "VERSION="):
			last := line[strings.LastIndexAny(line, "=.")+1:]
			l.changes, _ = strconv.ParseUint(last, 10, 64)
		case strings.HasPrefix(line, "IDTYPE="):
			e, err := parseEntry(line)
			if err != nil {
				warnings = append(warnings, fmt.Sprintf("WARNING: %s line %d: %v", path, i+1, err))
				continue
			}
			l.entries = append(l.entries, e)
		}
		// Other lines are LVM2's of its own: PRODUCT_UUID, HASH and so on.
	}
	return l, warnings
}

func parseEntry(line string) (entry, error) {
	var e entry
	for _, field := range strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(blanks, r) }) {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return e, errs.E(errs.Corrupt, "%q is not KEY=VALUE", field)
		}
		if value = unescape(value); value == "." {
			value = "" // LVM2 writes a dot for nothing
		}
		switch key {
		case "IDTYPE":
			e.idType = value
		case "IDNAME":
			e.idName = value
		case "DEVNAME":
			e.devName = value
		case "PVID":
			if id, err := volume.ParseUUID(value); err == nil {
				e.id = id
			}
		case "PART":
			n, err := strconv.ParseUint(value, 10, 16)
			if err != nil {
				return e, errs.E(errs.Corrupt, "PART=%s is not a number", value)
			}
			e.part = int(n)
		default:
			e.unknown = append(e.unknown, field)
		}
	}
	if e.name() == "" {
		return e, errs.E(errs.Corrupt, "neither DEVNAME nor IDNAME says which device it is")
	}
	return e, nil
}

// name returns the device's name as cowl knows it.
func (e entry) name() string {
	name := e.devName
	if e.idType == idFile && !loopShows(name, e.idName) || name == "" && e.idType == idDevName {
		name = e.idName
	}
	// LVM2 has DEVNAME=/dev/sda5 PART=5, for the kernel has made a device of it.
	if e.part > 0 && name != "" && !isPartition(name) {
		return partitionName(name, e.part)
	}
	return name
}

// entryFor makes the line for a device that was just used.
func entryFor(name string, id volume.UUID) entry {
	name = absolute(name)
	path, part := splitName(name)
	e := entry{idType: idDevName, idName: path, devName: path, id: id, part: part}
	if backing := loopFile(path); backing != "" {
		e.idType, e.idName = idFile, backing
	} else if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
		e.idType = idFile
	}
	return e
}

func (l devicesList) format(command string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# cowl looks at the devices listed in this file.\n# Written by: %s\n", strings.ReplaceAll(command, "\n", " "))
	fmt.Fprintf(&b, "VERSION=%s%d\n", devicesFileVersion, l.changes)
	for _, e := range l.entries {
		fmt.Fprintf(&b, "IDTYPE=%s IDNAME=%s DEVNAME=%s PVID=%s", escape(e.idType),
			escape(cmp.Or(e.idName, ".")), escape(cmp.Or(e.devName, ".")), cmp.Or(string(e.id), "."))
		if e.part > 0 {
			fmt.Fprintf(&b, " PART=%d", e.part)
		}
		for _, f := range e.unknown {
			b.WriteString(" " + f)
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// escape writes what would break a line or a field as \ooo.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == '\\' || c == 0x7f {
			fmt.Fprintf(&b, `\%03o`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// readDevices reads a devices file; one that is not there is empty.
func readDevices(path string) (l devicesList, warnings []string, exists bool, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil, false, nil
	}
	if err != nil {
		return l, nil, false, err
	}
	l, warnings = parseDevices(path, text)
	return l, warnings, true, nil
}

// updateDevices changes a devices file, one process at a time. The file is
// replaced at once: a reader, or a crash, finds the old or the new list.
func (h *Host) updateDevices(ctx context.Context, path string, change func(*devicesList)) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	lock, err := h.lockPath(ctx, path+".lock")
	if err != nil {
		return err
	}
	defer lock.Close()
	l, _, _, err := readDevices(path)
	if err != nil {
		return err
	}
	before := l.format("")
	change(&l)
	if bytes.Equal(l.format(""), before) {
		return nil
	}
	l.changes++
	return replaceFile(path, l.format(h.o.Command))
}

// lockPath takes the lock that a file beside the devices file stands for. The
// file stays: removing it would let two processes lock two files of the name.
func (h *Host) lockPath(ctx context.Context, path string) (*file.Device, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	f.Close()
	var lock *file.Device
	err = h.patiently(ctx, func() error {
		lock, err = file.Open(path, file.Options{Lock: file.Exclusive})
		return err
	})
	return lock, err
}

func replaceFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	if dir, err := os.Open(filepath.Dir(path)); err == nil {
		dir.Sync() // not every system can; the list is whole in any case
		dir.Close()
	}
	return nil
}

// add lists a device, in place of what was listed for it or for its PV before.
func (l *devicesList) add(e entry) {
	same := func(o entry) bool {
		return o.idType == e.idType && o.idName == e.idName && o.part == e.part || o.name() == e.name()
	}
	if i := slices.IndexFunc(l.entries, same); i >= 0 {
		e.unknown = l.entries[i].unknown
		l.entries[i] = e
		return
	}
	l.entries = append(l.entries, e)
}

// remove takes a device off the list.
func (l *devicesList) remove(name string) {
	gone := canonical(name)
	l.entries = slices.DeleteFunc(l.entries, func(e entry) bool { return canonical(e.name()) == gone })
}

// loopShows reports whether the device is a loop device that shows the file.
func loopShows(dev, path string) bool { return dev != "" && path != "" && loopFile(dev) == path }
