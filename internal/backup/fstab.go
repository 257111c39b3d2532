package backup

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"cowl/internal/manager"
)

// maxMountTable bounds what is read of /etc/fstab, and of the kernel's mounts.
const maxMountTable = 1 << 20

// fstabOf returns the lines of /etc/fstab that are of a volume, or else one for each
// place where it is mounted: what is needed to mount it on another machine.
// Where neither can be read there are none.
func fstabOf(st *manager.Status, lv string) []string {
	paths := pathsOf(st, lv)
	is := func(path string) bool { return isOneOf(paths, path) }
	fstab, _ := readLimited("/etc/fstab", maxMountTable)
	mounts, _ := readLimited("/proc/self/mountinfo", maxMountTable)
	if lines := fstabLines(fstab, is); len(lines) > 0 {
		return lines
	}
	return mountedLines(mounts, is, paths[0])
}

// isOneOf tells whether a path is one of some, or leads to the same file or
// device; or is a loop device on such a file.
func isOneOf(paths []string, path string) bool {
	if !filepath.IsAbs(path) {
		return false
	}
	if slices.Contains(paths, filepath.Clean(path)) {
		return true
	}
	there, err := os.Stat(path)
	if err != nil {
		return false
	}
	for _, p := range paths {
		if st, err := os.Stat(p); err == nil && os.SameFile(st, there) {
			return true
		}
	}
	backing, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(path), "loop", "backing_file"))
	file := strings.TrimSuffix(string(backing), "\n")
	return err == nil && filepath.Dir(filepath.Clean(path)) == "/dev" && isOneOf(paths, file)
}

// tagDirs are where links lead from what a line of fstab may call a file system.
var tagDirs = map[string]string{"UUID": "by-uuid", "LABEL": "by-label", "PARTUUID": "by-partuuid", "PARTLABEL": "by-partlabel"}

// fstabLines returns the lines of an fstab whose source is what is asked for.
func fstabLines(fstab []byte, is func(path string) bool) (out []string) {
	for s := bufio.NewScanner(bytes.NewReader(fstab)); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 4 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		source := unescapeMount(fields[0])
		if tag, value, ok := strings.Cut(source, "="); ok && tagDirs[tag] != "" {
			source = "/dev/disk/" + tagDirs[tag] + "/" + strings.ReplaceAll(strings.Trim(value, `"`), "/", `\x2f`)
		}
		if is(source) {
			out = append(out, strings.Join(fields, " "))
		}
	}
	return out
}

// mountedLines makes lines of an fstab of the kernel's mounts of a source, under
// the name by which it will be known.
func mountedLines(mountinfo []byte, is func(path string) bool, name string) (out []string) {
	for s := bufio.NewScanner(bytes.NewReader(mountinfo)); s.Scan(); {
		mount, fs, ok := strings.Cut(s.Text(), " - ")
		fields, of := strings.Fields(mount), strings.Fields(fs)
		if !ok || len(fields) < 6 || len(of) < 2 || fields[3] != "/" || !is(unescapeMount(of[1])) {
			continue // or a directory of it that is bound to a second place
		}
		out = append(out, strings.Join([]string{name, fields[4], of[0], fields[5], "0", "2"}, " "))
	}
	return out
}

// unescapeMount reads a field of either table, where \040 is a space.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
