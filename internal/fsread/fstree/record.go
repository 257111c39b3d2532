package fstree

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Record is what is seen of one file. Fields that a reader cannot tell are
// left out of the comparison, by name.
type Record struct {
	Path string // below the tree's root, "" for the root itself
	Ino  uint64
	Mode uint32 // type and permissions, as in stat(2)
	Links,
	UID, GID uint32
	Size, Blocks        int64 // bytes; units of 512 bytes
	Major, Minor        uint32
	Mtime, Atime, Ctime string // seconds.nanoseconds
	Btime               string
	Flags, Project      uint32
	Xattrs              []string // name=value, quoted, in the order of listxattr
	Link                string
	Sum                 string // SHA-256 of a regular file's content
	Extents             []Extent
}

// Extent is a part of a file that takes space on the device.
type Extent struct {
	Off, Len, Phys int64 // bytes
	Unwritten      bool
}

// fields are the comparable parts of a record, by name.
func (r *Record) fields() map[string]string {
	return map[string]string{
		"ino": fmt.Sprint(r.Ino), "mode": fmt.Sprintf("%o", r.Mode), "links": fmt.Sprint(r.Links), "owner": fmt.Sprintf("%d:%d", r.UID, r.GID),
		"size": fmt.Sprint(r.Size), "blocks": fmt.Sprint(r.Blocks), "device": fmt.Sprintf("%d:%d", r.Major, r.Minor),
		"mtime": r.Mtime, "atime": r.Atime, "ctime": r.Ctime, "btime": r.Btime, "flags": fmt.Sprintf("%#x", r.Flags),
		"project": fmt.Sprint(r.Project), "xattrs": strings.Join(r.Xattrs, " "), "link": fmt.Sprintf("%q", r.Link), "sum": r.Sum,
		"extents": fmt.Sprint(r.Extents),
	}
}

// Diff compares two views of a tree and returns what differs, one line each.
// The fields that except names are not compared.
func Diff(want, got []Record, except ...string) []string {
	byPath := func(a, b Record) int { return cmp.Compare(a.Path, b.Path) }
	want, got = slices.SortedFunc(slices.Values(want), byPath), slices.SortedFunc(slices.Values(got), byPath)
	var out []string
	for len(want) > 0 || len(got) > 0 {
		switch {
		case len(got) == 0 || len(want) > 0 && want[0].Path < got[0].Path:
			out = append(out, fmt.Sprintf("%q is missing", want[0].Path))
			want = want[1:]
		case len(want) == 0 || got[0].Path < want[0].Path:
			out = append(out, fmt.Sprintf("%q is not there", got[0].Path))
			got = got[1:]
		default:
			out = append(out, diffOne(&want[0], &got[0], except)...)
			want, got = want[1:], got[1:]
		}
	}
	return out
}

func diffOne(want, got *Record, except []string) []string {
	var out []string
	w, g := want.fields(), got.fields()
	for name, value := range w {
		if value != g[name] && !slices.Contains(except, name) {
			out = append(out, fmt.Sprintf("%q: %s is %s, want %s", want.Path, name, g[name], value))
		}
	}
	slices.Sort(out)
	return out
}

// Quote writes an attribute for Record.Xattrs.
func Quote(name string, value []byte) string { return fmt.Sprintf("%s=%q", name, value) }

// Time writes a time for a Record.
func Time(sec int64, nsec int64) string { return fmt.Sprintf("%d.%09d", sec, nsec) }

// Join puts extents together that continue each other, and cuts them off at
// the file's end, so that lists can be compared that were made differently.
func Join(extents []Extent, size int64) []Extent {
	var out []Extent
	for _, e := range extents {
		if e.Len = min(e.Len, size-e.Off); e.Len <= 0 {
			continue
		}
		if n := len(out); n > 0 && out[n-1].Unwritten == e.Unwritten && out[n-1].Off+out[n-1].Len == e.Off && out[n-1].Phys+out[n-1].Len == e.Phys {
			out[n-1].Len += e.Len
			continue
		}
		out = append(out, e)
	}
	return out
}
