package backup

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// tarBlock is the unit of a tar archive, in bytes.
const tarBlock = 512

// The entry types of POSIX tar that occur in a file system.
const (
	tarFile    = '0'
	tarLink    = '1'
	tarSymlink = '2'
	tarChar    = '3'
	tarBlockDV = '4'
	tarDir     = '5'
	tarFIFO    = '6'
	tarExtra   = 'x' // the records of the next entry
)

// tarEntry is one entry of an archive.
type tarEntry struct {
	name                string // "./etc/passwd"; directories end in a slash
	link                string // a symlink's target, or the entry that a hard link repeats
	kind                byte
	mode                uint32 // permission, setuid, setgid, sticky
	uid, gid            uint32
	size                int64 // of a regular file's content
	major, minor        uint32
	mtime, atime, ctime time.Time
	xattrs              map[string]string
}

// span is a run of a sparse file that holds data.
type span struct{ off, n int64 }

// paxWriter writes archives in POSIX pax format with GNU's 1.0 form of sparse
// files. It exists because archive/tar cannot write these, and a machine's
// /var/log/lastlog can be a terabyte of hole.
//
// Every entry has its records (times to the nanosecond, extended attributes,
// what does not fit the fixed fields), owners are numbers: the names are of
// the machine that the volume belongs to, not of this one.
type paxWriter struct {
	w io.Writer
}

// entry writes an entry and its content, if it has any. Of a file with holes
// data lists what is to be read; nil means all of it.
func (p *paxWriter) entry(e *tarEntry, content io.ReaderAt, data []span) error {
	records := e.records()
	name, size := e.name, e.size
	var table []byte
	if data != nil {
		table = sparseTable(data, e.size)
		dir, base := splitName(e.name)
		name = dir + "GNUSparseFile.0/" + base
		size = int64(len(table))
		for _, s := range data {
			size += s.n
		}
		records["GNU.sparse.major"] = "1"
		records["GNU.sparse.minor"] = "0"
		records["GNU.sparse.name"] = e.name
		records["GNU.sparse.realsize"] = strconv.FormatInt(e.size, 10)
	} else if e.size > 0 {
		data = []span{{0, e.size}}
	}
	if err := p.header(e, name, size, records); err != nil {
		return err
	}
	if _, err := p.w.Write(table); err != nil {
		return err
	}
	for _, s := range data {
		if _, err := io.CopyN(p.w, io.NewSectionReader(content, s.off, s.n), s.n); err != nil {
			return err
		}
	}
	return p.pad(size)
}

// close ends the archive.
func (p *paxWriter) close() error {
	_, err := p.w.Write(zeroes[:2*tarBlock])
	return err
}

// records are what every entry has to say beyond the fixed fields.
func (e *tarEntry) records() map[string]string {
	r := map[string]string{"mtime": paxTime(e.mtime), "atime": paxTime(e.atime), "ctime": paxTime(e.ctime)}
	for name, value := range e.xattrs {
		// As GNU tar and star do: a record's keyword ends at its first "=".
		name = strings.NewReplacer("%", "%25", "=", "%3D").Replace(name)
		r["SCHILY.xattr."+name] = value
	}
	return r
}

// header writes the extended header with the records, and the entry's own.
func (p *paxWriter) header(e *tarEntry, name string, size int64, records map[string]string) error {
	if !fits(name) {
		records["path"] = name
	}
	if e.link != "" && !fits(e.link) {
		records["linkpath"] = e.link
	}
	for field, value := range map[string]int64{"size": size, "uid": int64(e.uid), "gid": int64(e.gid)} {
		if value > maxOctal(fieldWidth[field]) {
			records[field] = strconv.FormatInt(value, 10)
		}
	}
	text := paxRecords(records)
	_, base := splitName(name)
	extra := fixedHeader(&tarEntry{kind: tarExtra, mode: 0o644, mtime: e.mtime}, "./PaxHeaders/"+base, int64(len(text)))
	if _, err := p.w.Write(append(extra, text...)); err != nil {
		return err
	}
	if err := p.pad(int64(len(text))); err != nil {
		return err
	}
	_, err := p.w.Write(fixedHeader(e, name, size))
	return err
}

// pad fills the last block of a content of n bytes.
func (p *paxWriter) pad(n int64) error {
	_, err := p.w.Write(zeroes[:(tarBlock-n%tarBlock)%tarBlock])
	return err
}

// splitName splits an entry's name behind the last slash that something
// follows.
func splitName(name string) (dir, base string) {
	i := strings.LastIndexByte(strings.TrimSuffix(name, "/"), '/')
	return name[:i+1], name[i+1:]
}

// paxTime is a time in seconds with as many decimals as it has.
func paxTime(t time.Time) string {
	s, ns := t.Unix(), t.Nanosecond()
	if ns == 0 {
		return strconv.FormatInt(s, 10)
	}
	sign := ""
	if s < 0 { // -1.25 is a second and a quarter before the epoch
		sign, s, ns = "-", -(s + 1), 1e9-ns
	}
	return strings.TrimRight(fmt.Sprintf("%s%d.%09d", sign, s, ns), "0")
}

// paxRecords writes the records in order of their keys.
func paxRecords(records map[string]string) []byte {
	var b bytes.Buffer
	for _, key := range slices.Sorted(maps.Keys(records)) {
		rest := len(key) + len(records[key]) + 3 // " ", "=", "\n"
		n := rest + len(strconv.Itoa(rest))
		if len(strconv.Itoa(n)) > len(strconv.Itoa(rest)) {
			n++ // the length counts its own digits
		}
		fmt.Fprintf(&b, "%d %s=%s\n", n, key, records[key])
	}
	return b.Bytes()
}

// sparseTable lists the spans as GNU's format 1.0 has it at the head of a
// sparse file's content: decimal numbers, padded to a block. A file that ends
// in a hole has an empty span there.
func sparseTable(data []span, size int64) []byte {
	if n := len(data); n == 0 || data[n-1].off+data[n-1].n < size {
		data = append(slices.Clip(data), span{size, 0})
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d\n", len(data))
	for _, s := range data {
		fmt.Fprintf(&b, "%d\n%d\n", s.off, s.n)
	}
	b.Write(zeroes[:(tarBlock-b.Len()%tarBlock)%tarBlock])
	return b.Bytes()
}

// fieldWidth is the width of ustar's numeric fields, their NUL included.
var fieldWidth = map[string]int{"mode": 8, "uid": 8, "gid": 8, "size": 12, "mtime": 12, "chksum": 8, "devmajor": 8, "devminor": 8}

// maxOctal is the largest number that a field of the width holds.
func maxOctal(width int) int64 { return 1<<(3*(width-1)) - 1 }

// fits tells whether a name can stand in a fixed header.
func fits(name string) bool {
	return len(name) <= 100 && !strings.ContainsFunc(name, func(r rune) bool { return r >= utf8.RuneSelf })
}

// fixedHeader is the 512-byte ustar header. What does not fit is cut, because
// a record replaces it.
func fixedHeader(e *tarEntry, name string, size int64) []byte {
	h := make([]byte, 0, tarBlock)
	text := func(s string, width int) {
		h = append(h, s[:min(len(s), width)]...)
		h = append(h, zeroes[:width-min(len(s), width)]...)
	}
	octal := func(field string, v int64) {
		width := fieldWidth[field]
		h = fmt.Appendf(h, "%0*o\x00", width-1, min(max(v, 0), maxOctal(width)))
	}
	text(name, 100)
	octal("mode", int64(e.mode))
	octal("uid", int64(e.uid))
	octal("gid", int64(e.gid))
	octal("size", size)
	octal("mtime", e.mtime.Unix())
	sum := len(h)
	text("        ", 8) // the checksum is made with blanks in its place
	h = append(h, e.kind)
	text(e.link, 100)
	text("ustar\x0000", 8)
	text("", 64) // owners' names
	octal("devmajor", int64(e.major))
	octal("devminor", int64(e.minor))
	text("", tarBlock-len(h)) // prefix, unused, and padding
	var total int64
	for _, b := range h {
		total += int64(b)
	}
	copy(h[sum:], fmt.Sprintf("%06o\x00 ", total))
	return h
}
