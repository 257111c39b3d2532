package archive

import (
	"errors"
	"fmt"
	"io"
	"iter"
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

// entry is one entry of an archive.
type entry struct {
	*Header
	name   string // "./etc/passwd"; directories end in a slash
	link   string // a symlink's target, or the entry that a hard link repeats
	kind   byte
	xattrs []Xattr
	sparse sparseSize // of a file with holes
}

// paxWriter writes archives in POSIX pax format with GNU's 1.0 form of sparse
// files. It exists because archive/tar cannot write these, and a machine's
// /var/log/lastlog can be a terabyte of hole.
//
// Every entry has its records (times to the nanosecond, extended attributes,
// what does not fit the fixed fields), owners are numbers: the names are of
// the machine that the volume belongs to, not of this one.
//
// Entries are many and mostly small, so buffers are used again.
type paxWriter struct {
	w       io.Writer
	records []record
	text    []byte // an entry's headers
	buf     []byte // of content
}

// record is a line of an entry's extended header.
type record struct{ key, value string }

// readError is about content that could not be read, after its header was
// written.
type readError struct{ error }

// copyBytes is how much of a file is read at once.
const copyBytes = 256 << 10

// zeroes pads; nobody may change it.
var zeroes [32 << 10]byte

// entry writes an entry and its content, if it has any. Where the content
// cannot be read, zeroes take its place and the error is a readError.
func (p *paxWriter) entry(e *entry, c Content) error {
	p.records = e.records(p.records[:0])
	var size int64
	if e.kind == tarFile {
		size = e.Size
	}
	name := e.name
	if c.Data != nil {
		dir, base := splitName(e.name)
		name = dir + "GNUSparseFile.0/" + base
		size = e.sparse.table + e.sparse.data
		p.records = append(p.records, record{"GNU.sparse.major", "1"}, record{"GNU.sparse.minor", "0"},
			record{"GNU.sparse.name", e.name}, record{"GNU.sparse.realsize", strconv.FormatInt(e.Size, 10)})
	}
	if err := p.header(e, name, size); err != nil {
		return err
	}
	unreadable, err := p.content(e, c, size)
	if err != nil {
		return err
	}
	return errors.Join(p.pad(size), unreadable)
}

// content writes what follows an entry's header.
func (p *paxWriter) content(e *entry, c Content, size int64) (unreadable, err error) {
	data := c.Data
	if data == nil {
		data = one(Span{0, size})
	} else if err := p.table(e, data); err != nil {
		return nil, err
	}
	left := size - e.sparse.table
	for s, err := range data {
		if left -= s.Len; err == nil && left < 0 {
			err = e.changed()
		}
		if err == nil {
			err = p.span(c, s, unreadable != nil)
		}
		if errors.As(err, new(readError)) {
			unreadable, err = err, nil
		}
		if err != nil {
			return nil, err
		}
	}
	if left != 0 {
		return nil, e.changed()
	}
	return unreadable, nil
}

// changed is the end of an archive: what was announced cannot be kept.
func (e *entry) changed() error { return fmt.Errorf("%s changed while it was read", e.name) }

// one yields a span, if there is anything in it.
func one(s Span) iter.Seq2[Span, error] {
	return func(yield func(Span, error) bool) {
		if s.Len > 0 {
			yield(s, nil)
		}
	}
}

// span copies a part of a file's content. If it cannot be read, or blank is
// set, zeroes are written.
func (p *paxWriter) span(c Content, s Span, blank bool) (failed error) {
	if p.buf == nil {
		p.buf = make([]byte, copyBytes)
	}
	for s.Len > 0 {
		b := p.buf[:min(s.Len, copyBytes)]
		if !blank && failed == nil {
			n, err := c.ReadAt(b, s.Off)
			switch {
			case n == len(b):
			case errors.Is(err, io.EOF):
				failed = readError{fmt.Errorf("the file is shorter than its size: it ends at byte %d", s.Off+int64(n))}
			default:
				failed = readError{err}
			}
			clear(b[n:])
		} else {
			clear(b)
		}
		if _, err := p.w.Write(b); err != nil {
			return err
		}
		s.Off += int64(len(b))
		s.Len -= int64(len(b))
	}
	return failed
}

// close ends the archive.
func (p *paxWriter) close() error {
	_, err := p.w.Write(zeroes[:2*tarBlock])
	return err
}

// escapes are for names of attributes, as GNU tar and star do it: a record's
// keyword ends at its first "=".
var escapes = strings.NewReplacer("%", "%25", "=", "%3D")

// records appends what every entry has to say beyond the fixed fields. The
// attributes of a file come with its first name only.
func (e *entry) records(r []record) []record {
	r = append(r, record{"mtime", paxTime(e.Mtime)}, record{"atime", paxTime(e.Atime)}, record{"ctime", paxTime(e.Ctime)})
	for _, x := range e.xattrs {
		r = append(r, record{"SCHILY.xattr." + escapes.Replace(x.Name), string(x.Value)})
	}
	return r
}

// header writes the extended header with the records, and the entry's own.
func (p *paxWriter) header(e *entry, name string, size int64) error {
	if !fits(name) {
		p.records = append(p.records, record{"path", name})
	}
	if e.link != "" && !fits(e.link) {
		p.records = append(p.records, record{"linkpath", e.link})
	}
	for _, f := range []struct {
		field string
		value int64
		width int
	}{{"size", size, sizeWidth}, {"uid", int64(e.UID), idWidth}, {"gid", int64(e.GID), idWidth}} {
		if f.value > maxOctal(f.width) {
			p.records = append(p.records, record{f.field, strconv.FormatInt(f.value, 10)})
		}
	}
	// The first block is the extended header's own, which needs its length.
	p.text = appendRecords(append(p.text[:0], zeroes[:tarBlock]...), p.records)
	length := len(p.text) - tarBlock
	p.text = append(p.text, zeroes[:padding(int64(length))]...)
	_, base := splitName(name)
	fixedHeader(p.text[:tarBlock], &entry{Header: &Header{Mode: 0o644, Mtime: e.Mtime}, kind: tarExtra}, "./PaxHeaders/"+base, int64(length))
	at := len(p.text)
	p.text = append(p.text, zeroes[:tarBlock]...)
	fixedHeader(p.text[at:], e, name, size)
	_, err := p.w.Write(p.text)
	return err
}

// pad fills the last block of a content of n bytes.
func (p *paxWriter) pad(n int64) error {
	_, err := p.w.Write(zeroes[:padding(n)])
	return err
}

func padding(n int64) int64 { return (tarBlock - n%tarBlock) % tarBlock }

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
	b := make([]byte, 0, 32)
	if s < 0 { // -1.25 is a second and a quarter before the epoch
		b, s, ns = append(b, '-'), -(s + 1), 1e9-ns
	}
	b = append(strconv.AppendInt(b, s, 10), '.')
	for unit := 100_000_000; ns > 0; unit /= 10 {
		b = append(b, byte('0'+ns/unit))
		ns %= unit
	}
	return string(b)
}

// appendRecords appends the records in order of their keys.
func appendRecords(b []byte, records []record) []byte {
	slices.SortFunc(records, func(a, b record) int { return strings.Compare(a.key, b.key) })
	for _, r := range records {
		rest := len(r.key) + len(r.value) + 3 // " ", "=", "\n"
		n := rest + digits(rest)
		if digits(n) > digits(rest) {
			n++ // the length counts its own digits
		}
		b = append(strconv.AppendInt(b, int64(n), 10), ' ')
		b = append(append(b, r.key...), '=')
		b = append(append(b, r.value...), '\n')
	}
	return b
}

// digits is how many digits a number has.
func digits(n int) int {
	d := 1
	for ; n >= 10; n /= 10 {
		d++
	}
	return d
}

// A file with holes begins, as GNU's format 1.0 has it, with a table of where
// its data is: decimal numbers, how many spans and then each one's beginning and
// length, padded to a block. A file that ends in a hole has an empty span there.

// sparseSize is what a file with holes takes in an archive.
type sparseSize struct {
	spans       int64
	table, data int64 // bytes
}

// measure finds out what the entry of a file needs to say before its table.
func measure(data iter.Seq2[Span, error], size int64) (m sparseSize, err error) {
	var text []byte
	for s, err := range withEnd(data, size) {
		if err != nil {
			return m, err
		}
		text = appendSpan(text[:0], s)
		m.spans, m.table, m.data = m.spans+1, m.table+int64(len(text)), m.data+s.Len
	}
	m.table += int64(digits(int(m.spans)) + 1)
	m.table += padding(m.table)
	return m, nil
}

// table writes the table of a file that was measured.
func (p *paxWriter) table(e *entry, data iter.Seq2[Span, error]) error {
	text := append(strconv.AppendInt(p.text[:0], e.sparse.spans, 10), '\n')
	var n int64
	left := e.sparse
	for s, err := range withEnd(data, e.Size) {
		if err != nil {
			return err
		}
		text = appendSpan(text, s)
		left.spans, left.data = left.spans-1, left.data-s.Len
		if len(text) < len(zeroes) {
			continue
		}
		if _, err := p.w.Write(text); err != nil {
			return err
		}
		n, text = n+int64(len(text)), text[:0]
	}
	n += int64(len(text))
	text = append(text, zeroes[:padding(n)]...)
	if p.text = text; left.spans != 0 || left.data != 0 || n+padding(n) != e.sparse.table {
		return e.changed()
	}
	_, err := p.w.Write(text)
	return err
}

// withEnd adds the empty span at the end.
func withEnd(data iter.Seq2[Span, error], size int64) iter.Seq2[Span, error] {
	return func(yield func(Span, error) bool) {
		end := int64(-1)
		for s, err := range data {
			if !yield(s, err) || err != nil {
				return
			}
			end = s.Off + s.Len
		}
		if end < size {
			yield(Span{size, 0}, nil)
		}
	}
}

func appendSpan(b []byte, s Span) []byte {
	b = append(strconv.AppendInt(b, s.Off, 10), '\n')
	return append(strconv.AppendInt(b, s.Len, 10), '\n')
}

// The widths of ustar's numeric fields, their NUL included.
const (
	modeWidth = 8
	idWidth   = 8 // owners, device numbers, the checksum
	sizeWidth = 12
)

// maxOctal is the largest number that a field of the width holds.
func maxOctal(width int) int64 { return 1<<(3*(width-1)) - 1 }

// fits tells whether a name can stand in a fixed header.
func fits(name string) bool {
	return len(name) <= 100 && !strings.ContainsFunc(name, func(r rune) bool { return r >= utf8.RuneSelf })
}

// fixedHeader fills a block of zeroes with the ustar header. What does not fit
// is cut, because a record replaces it.
func fixedHeader(h []byte, e *entry, name string, size int64) {
	copy(h[0:100], name)
	octal(h[100:108], int64(e.Mode&0o7777))
	octal(h[108:116], int64(e.UID))
	octal(h[116:124], int64(e.GID))
	octal(h[124:136], size)
	octal(h[136:148], e.Mtime.Unix())
	h[156] = e.kind
	copy(h[157:257], e.link)
	copy(h[257:265], "ustar\x0000")
	octal(h[329:337], int64(e.Major))
	octal(h[337:345], int64(e.Minor))
	sum := int64(8 * ' ') // the checksum is made with blanks in its place
	for _, b := range h[:tarBlock] {
		sum += int64(b)
	}
	octal(h[148:155], sum)
	h[155] = ' '
}

// octal writes a number with leading zeroes and a NUL behind it.
func octal(field []byte, v int64) {
	v = min(max(v, 0), maxOctal(len(field)))
	for i := len(field) - 2; i >= 0; i-- {
		field[i] = byte('0' + v&7)
		v >>= 3
	}
	field[len(field)-1] = 0
}
