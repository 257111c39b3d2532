package fsread_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"cowl/internal/block/blocktest"
	"cowl/internal/fsread"
	"cowl/internal/fsread/fstree"
	"cowl/internal/judge"
)

// File systems that this machine's kernel does not mount, because their blocks
// are larger than its pages or because of how it was built: mke2fs fills them
// from a directory, which the kernel shows; debugfs is the second judge.
func TestFilledByMke2fs(t *testing.T) {
	judge.Need(t, "debugfs")
	judge.NeedRoot(t)
	source := t.TempDir()
	fstree.Nasty(t, source, fstree.Scale{Entries: 3000, Extents: 600, Sparse: 60 << 20})
	want := fstree.Kernel(t, source)
	for name, mke2fs := range map[string]string{
		"8k":         "-t ext4 -b 8192",
		"16k":        "-t ext4 -b 16384 -I 512",
		"32k":        "-t ext4 -b 32768 -O ^extents,^64bit",
		"64k":        "-t ext4 -b 65536",
		"64k ext2":   "-t ext2 -b 65536",
		"64k others": "-t ext4 -b 65536 -O ^metadata_csum,^has_journal,large_dir,casefold -E encoding=utf8",
		"casefold":   "-t ext4 -b 4096 -O casefold -E encoding=utf8",
		"verity":     "-t ext4 -b 4096 -O verity,stable_inodes",
	} {
		if !blocktest.Long() && !strings.HasPrefix(name, "64k") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := fstree.Image(t, 2<<30, append(strings.Fields(mke2fs), "-d", source)...)
			fs := open(t, image)
			got := ours(t, fs)
			got = withoutLostFound(got)
			except := []string{"ino", "blocks", "mtime", "atime", "ctime", "btime", "flags", "extents", "project", "xattrs"}
			for _, line := range fstree.Diff(trimmed(want), trimmed(got), except...) {
				t.Error(line)
			}
			byDebugfs(t, image, fs)
		})
	}
}

// withoutLostFound leaves out what mke2fs adds.
func withoutLostFound(rs []fstree.Record) []fstree.Record {
	var out []fstree.Record
	for _, r := range rs {
		if r.Path != "lost+found" {
			out = append(out, r)
		}
	}
	return out
}

// trimmed takes away what differs from one file system to another: the size of
// directories, and the root's own fields, which mke2fs makes anew.
func trimmed(rs []fstree.Record) []fstree.Record {
	out := append([]fstree.Record(nil), rs...)
	for i := range out {
		if r := &out[i]; r.Mode&0o170000 == 0o040000 {
			r.Size, r.Links = 0, 0
			if r.Path == "" {
				r.Mode, r.UID, r.GID = 0, 0, 0
			}
		}
		if out[i].Link != "" {
			out[i].Links = 0 // mke2fs makes two of a link with two names
		}
	}
	return out
}

var debugfsStat = regexp.MustCompile(`(?s)Inode: (\d+) +Type: (.*?) +Mode: +(\d+).*?Generation: (\d+).*?User: +(\d+) +Group: +(\d+).*?Size: (\d+).*?Links: (\d+) +Blockcount: (\d+).*?mtime: 0x([0-9a-f]+)`)

// byDebugfs compares some inodes with what debugfs says of them, and files with
// what it reads.
func byDebugfs(t *testing.T, image string, fs *fsread.FS) {
	t.Helper()
	for _, path := range []string{"/", "/d", "/many", "/plain", "/fragments", "/link-60", "/link-59", "/disk", "/size-155", "/attr-large", "/sparse"} {
		n, err := fs.Lookup(path, false)
		if err != nil {
			t.Error(err)
			continue
		}
		out := fstree.Run(t, "debugfs", "-R", "stat "+path, image)
		m := debugfsStat.FindStringSubmatch(out)
		if m == nil {
			t.Errorf("%s: debugfs says %s", path, out)
			continue
		}
		for i, got := range map[int]uint64{1: uint64(n.Ino), 4: uint64(n.Generation), 5: uint64(n.UID), 6: uint64(n.GID), 7: uint64(n.Size), 8: uint64(n.Links), 9: n.Sectors} {
			if want, _ := strconv.ParseUint(m[i], 10, 64); want != got {
				t.Errorf("%s: %d, debugfs says %s (field %d)", path, got, m[i], i)
			}
		}
		if perm, _ := strconv.ParseUint(m[3], 8, 32); uint32(perm) != n.Mode.Perm() {
			t.Errorf("%s: mode %o, debugfs says %s", path, n.Mode, m[3])
		}
		if mtime, _ := strconv.ParseUint(m[10], 16, 64); uint32(mtime) != uint32(n.Mtime.Unix()) {
			t.Errorf("%s: mtime %v, debugfs says 0x%s", path, n.Mtime, m[10])
		}
	}
	to := filepath.Join(t.TempDir(), "dumped")
	for _, path := range []string{"/size-300000", "/fragments"} {
		n, err := fs.Lookup(path, false)
		if err != nil {
			t.Fatal(err)
		}
		fstree.Run(t, "debugfs", "-R", "dump "+path+" "+to, image)
		f, err := fs.OpenFile(n)
		if err != nil {
			t.Fatal(err)
		}
		got, err := fstree.Sum(f, n.Size, nil)
		if err != nil {
			t.Fatal(err)
		}
		if want := fstree.Sum256(t, to); want != got {
			t.Errorf("%s: content %s, debugfs reads %s", path, got, want)
		}
		os.Remove(to)
	}
}
