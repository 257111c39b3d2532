package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strings"

	"cowl/internal/errs"
)

// pass reads an archive from its beginning to its end, once.
type pass struct {
	a      *Archive
	ctx    context.Context
	in     *stream
	global records // of all that follows
	block  header
	sum    *summer
	until  string // as it stands in the tree
	begun  bool   // there was a header that is one
}

// errFound ends a pass at the member that was looked for.
var errFound = errors.New("found")

// run reads. Damage behind the first member is noted down, and ends it without an
// error: what came before can be read.
func (p *pass) run() error {
	if p.until = strings.TrimPrefix(path.Clean("/"+p.a.o.Until), "/"); p.a.o.Sums {
		p.sum = newSummer()
	}
	err := p.in.seek(0)
	for err == nil {
		if p.ctx.Err() != nil {
			return context.Cause(p.ctx)
		}
		err = p.member()
	}
	switch {
	case errors.Is(err, errFound):
		return nil
	case p.ctx.Err() != nil:
		return context.Cause(p.ctx)
	case p.in.file.failed != nil:
		return p.in.file.failed
	case errors.As(err, new(fatal)):
		return err
	case !p.begun && (err == io.EOF || !p.in.packed()):
		return errs.E(errs.NotFound, "it is no tar archive")
	case !p.begun:
		return errs.E(errs.NotFound, "what is compressed in it is no tar archive: %w", err)
	case err == io.EOF:
		return nil
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = errs.E(errs.Corrupt, "it ends there")
	}
	p.a.damage = errs.E(errs.KindOf(err), "the archive cannot be read behind byte %d (%d members): %w", p.in.at, p.a.entries, err)
	return nil
}

// member reads what belongs to one member. The error is io.EOF behind the
// archive's end.
func (p *pass) member() error {
	r := p.begin()
	for {
		switch err := p.in.read(p.block[:]); {
		case err == io.EOF:
			return errs.E(errs.Corrupt, "the archive's end is missing")
		case err != nil:
			return err
		case p.block.isZero():
			if p.in.packed() {
				return p.in.drain()
			}
			return io.EOF
		case !p.block.valid():
			return errs.E(errs.Corrupt, "the header's checksum is wrong")
		}
		p.begun = true
		size, err := number(p.block.size())
		if err == nil && size < 0 {
			err = errs.E(errs.Corrupt, "a size of %d", size)
		}
		if err == nil {
			switch p.block.kind() {
			case tarExtra, tarExtraSun:
				err = p.records(&r, size)
			case tarGlobal:
				err = p.records(&p.global, size)
				r = p.begin()
			case gnuLongName:
				r.path, err = p.longName(size)
			case gnuLongLink:
				r.link, err = p.longName(size)
			case gnuVolume:
				err = p.skip(size)
			default:
				return p.file(&r, size)
			}
		}
		if err != nil {
			return err
		}
	}
}

// begin is what is known of a member before its own headers.
func (p *pass) begin() records {
	r := p.global
	r.xattrs = slices.Clone(r.xattrs)
	return r
}

// maxRecords bounds an extended header, in bytes. Attributes of a file have
// 64 KiB each, and GNU's map of a sparse file may stand there as well.
const maxRecords = 32 << 20

// records reads an extended header.
func (p *pass) records(r *records, size int64) error {
	text, err := p.text(size, maxRecords-r.length)
	if err != nil {
		return err
	}
	r.length += size
	return r.add(text)
}

func (p *pass) longName(size int64) (string, error) {
	b, err := p.text(size, maxName+1)
	if err != nil {
		return "", err
	}
	return text(b), nil
}

// text reads the content of a header that goes with the next one. Memory is taken
// for what is there, not for what is announced.
func (p *pass) text(size, most int64) ([]byte, error) {
	if size > most {
		return nil, errs.E(errs.Unsupported, "an extended header of %d bytes: %d are the most", size, most)
	}
	var b bytes.Buffer
	for left := size; left > 0; {
		n := min(left, copyStep)
		if err := p.in.read(p.in.buf[:n]); err != nil {
			return nil, cut(err)
		}
		b.Write(p.in.buf[:n])
		left -= n
	}
	return b.Bytes(), p.skip(padding(size))
}

// cut is the error of what ends too early.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// skip goes on behind n bytes.
func (p *pass) skip(n int64) error {
	const step = 64 << 20 // after which it is asked whether to go on
	for n > 0 {
		if p.ctx.Err() != nil {
			return context.Cause(p.ctx)
		}
		if !p.in.packed() {
			if p.in.at > p.in.size-n {
				return io.ErrUnexpectedEOF
			}
			return p.in.seek(p.in.at + n)
		}
		m := min(n, step)
		if err := p.in.seek(p.in.at + m); err != nil {
			return cut(err)
		}
		n -= m
	}
	return nil
}

// file reads a file's header, and what is in it.
func (p *pass) file(r *records, size int64) error {
	m := &member{path: p.block.path(), link: p.block.link(), kind: p.block.kind()}
	p.a.entries++
	m.describe(&p.block, r, size)
	start := p.in.at
	if m.stored > math.MaxInt64-tarBlock-start {
		return errs.E(errs.Corrupt, "%q: a size of %d bytes", m.path, m.stored)
	}
	if err := p.sparse(m, r); err != nil {
		return fmt.Errorf("%q: %w", m.path, err)
	}
	m.at = p.in.at
	wrong := m.wrong
	if wrong == nil {
		wrong = m.check(m.stored - (m.at - start))
	}
	if wrong == nil {
		wrong = p.a.attributes(m, r)
	}
	before := p.a.inodes.n
	if wrong == nil {
		wrong = p.a.add(m)
	}
	if wrong != nil {
		if errors.As(wrong, new(fatal)) {
			return wrong
		}
		p.a.skip(m.path, wrong)
	}
	isFile := wrong == nil && m.mode&ModeType == ModeFile && m.kind != tarLink
	if isFile && p.until != "" && isPath(m.path, p.until) {
		return errFound
	}
	if isFile && p.sum != nil && p.a.inodes.n > before {
		ino := int32(p.a.inodes.n - 1)
		if err := p.hash(m, ino); err != nil {
			p.a.unread = ino
			return fmt.Errorf("%q: %w", m.path, cut(err))
		}
	}
	left := m.stored + padding(m.stored) - (p.in.at - start)
	if err := p.skip(left); err != nil {
		return fmt.Errorf("%q: %w", m.path, err)
	}
	return nil
}

// isPath tells whether a member has a path, which is clean.
func isPath(name, want string) bool {
	return strings.HasSuffix(name, path.Base(want)) && strings.TrimPrefix(path.Clean("/"+name), "/") == want
}

// hash reads a file's content for its sum.
func (p *pass) hash(m *member, ino int32) error {
	spans := one(Span{0, m.size})
	if m.more != nil && m.more.sparse != nil {
		spans = m.more.sparse.all()
	}
	for s := range spans {
		for s.Len > 0 {
			if p.ctx.Err() != nil {
				return context.Cause(p.ctx)
			}
			b := p.in.buf[:min(s.Len, copyStep)]
			if err := p.in.read(b); err != nil {
				return err
			}
			p.sum.add(b, s.Off)
			s.Off, s.Len = s.Off+int64(len(b)), s.Len-int64(len(b))
		}
	}
	*p.a.sums.at(ino) = p.sum.sum()
	return nil
}

// sparse reads the map of a file with holes, if it is one.
func (p *pass) sparse(m *member, r *records) error {
	list := &r.sparse
	switch {
	case p.block.kind() == gnuSparse:
		list = &spanList{}
		size, err := number(p.block.gnuRealSize())
		if err == nil {
			err = p.oldMap(list, m)
		}
		if err != nil {
			return err
		}
		m.size = size
	case r.version == [2]int64{1, 0}:
		list = &spanList{}
		if err := p.table(list, m.stored); err != nil {
			return err
		}
		m.size = r.realSize
	case r.hasMap:
		m.size = r.realSize
	default:
		return nil
	}
	if m.kind = tarFile; m.mode&ModeType != ModeFile {
		return errs.E(errs.Corrupt, "a map of data for what is no file")
	}
	m.more = &more{sparse: &spanList{slices.Clip(list.code), list.end, list.data}}
	return nil
}

// oldMap reads the map of GNU's old form: 4 spans in the header, and blocks of 21.
func (p *pass) oldMap(list *spanList, m *member) error {
	more := p.block.gnuMore()
	if err := list.addNumbers(p.block.gnuMap()); err != nil {
		return err
	}
	for n := int64(0); more; n++ {
		if n%1024 == 0 && p.ctx.Err() != nil {
			return context.Cause(p.ctx)
		}
		if err := p.in.read(p.block[:]); err != nil {
			return cut(err)
		}
		m.stored += tarBlock // counted as content, which it is not in the header
		if err := list.addNumbers(p.block.moreMap()); err != nil {
			return err
		}
		more = p.block.moreMore()
	}
	return nil
}

// addNumbers adds spans in the form of a header's numbers, up to one that is empty.
func (l *spanList) addNumbers(b []byte) error {
	for ; len(b) >= 24; b = b[24:] {
		if b[0] == 0 {
			return nil
		}
		off, err := number(b[:12])
		if err != nil {
			return err
		}
		length, err := number(b[12:24])
		if err == nil {
			err = l.add(off, length)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// table reads the map of GNU's form 1.0, which pax.go describes.
func (p *pass) table(list *spanList, stored int64) error {
	start := p.in.at
	n, err := p.line(start + stored)
	for ; err == nil && n > 0; n-- {
		if n%1024 == 0 && p.ctx.Err() != nil {
			return context.Cause(p.ctx)
		}
		var off, length int64
		if off, err = p.line(start + stored); err == nil {
			length, err = p.line(start + stored)
		}
		if err == nil {
			err = list.add(off, length)
		}
	}
	if err != nil {
		return cut(err)
	}
	return p.skip(min(padding(p.in.at-start), start+stored-p.in.at))
}

// line reads a decimal number up to a line's end, which is not behind end.
func (p *pass) line(end int64) (int64, error) {
	var digits [20]byte
	for i := range digits {
		if p.in.at >= end {
			break
		}
		b, err := p.in.readByte()
		if err != nil {
			return 0, err
		}
		if b == '\n' {
			return decimal(digits[:i])
		}
		digits[i] = b
	}
	return 0, errs.E(errs.Corrupt, "sparse file: the map has a line that is no number")
}

// describe takes what the header and the records before it say.
func (m *member) describe(h *header, r *records, size int64) {
	if r.path != "" {
		m.path = r.path
	}
	if r.realName != "" {
		m.path = r.realName
	}
	if r.link != "" {
		m.link = r.link
	}
	if r.size >= 0 {
		size = r.size
	}
	mode, err := number(h.mode())
	m.is(err)
	m.uid, err = owner(h.uid(), r.uid)
	m.is(err)
	m.gid, err = owner(h.gid(), r.gid)
	m.is(err)
	m.mtime, err = modified(h, r)
	m.is(err)
	m.atime, m.ctime = m.mtime, m.mtime
	if r.atime != nil {
		m.atime = *r.atime
	}
	if r.ctime != nil {
		m.ctime = *r.ctime
	}
	m.typed(h, uint32(mode)&0o7777, size)
}

// is notes down what is wrong with a member.
func (m *member) is(err error) {
	if m.wrong == nil {
		m.wrong = err
	}
}

func modified(h *header, r *records) (moment, error) {
	if r.mtime != nil {
		return *r.mtime, nil
	}
	sec, err := number(h.mtime())
	if err == nil && (sec > maxSeconds || sec < -maxSeconds) {
		err = errs.E(errs.Corrupt, "%d is no time", sec)
	}
	return moment{sec: sec}, err
}

// typed takes what depends on the type.
func (m *member) typed(h *header, perm uint32, size int64) {
	m.size, m.stored = size, size
	kind := uint32(ModeFile)
	switch m.kind {
	case tarOldFile, tarContiguous, tarFile, gnuSparse:
		if strings.HasSuffix(m.path, "/") && m.kind != gnuSparse { // as before there was a type
			kind, m.kind = ModeDir, tarDir
		}
	case tarLink: // some say how long the file is
		m.size, m.stored = 0, 0
	case tarSymlink:
		kind, m.size, m.stored = ModeLink, int64(len(m.link)), 0
		m.more = &more{target: m.link}
	case tarChar, tarBlockDV:
		if kind, m.size, m.stored = ModeChar, 0, 0; m.kind == tarBlockDV {
			kind = ModeBlock
		}
		var err error
		m.major, err = owner(h.major(), -1)
		m.is(err)
		m.minor, err = owner(h.minor(), -1)
		m.is(err)
	case tarDir:
		kind, m.size, m.stored = ModeDir, 0, 0
	case gnuDumpDir:
		kind, m.kind, m.size = ModeDir, tarDir, 0
	case tarFIFO:
		kind, m.size, m.stored = ModeFIFO, 0, 0
	case gnuContinued:
		m.is(errs.E(errs.Unsupported, "it goes on from another archive"))
	}
	m.mode = kind | perm
}

// owner is a number of 32 bits: of records if it is not negative, else a field's.
func owner(field []byte, said int64) (uint32, error) {
	v, err := said, error(nil)
	if said < 0 {
		v, err = number(field)
	}
	if err == nil && (v < 0 || v > math.MaxUint32) {
		err = errs.E(errs.Unsupported, "%d is not a number of 32 bits", v)
	}
	return uint32(v), err
}

// check compares a file's map with its content, of which stored bytes are there,
// and looks at what else may be wrong with a member.
func (m *member) check(stored int64) error {
	switch {
	case m.kind == tarSymlink && (m.link == "" || len(m.link) > maxName):
		return errs.E(errs.Corrupt, "a symbolic link to %d bytes", len(m.link))
	case m.more == nil || m.more.sparse == nil:
		return nil
	}
	s := m.more.sparse
	if s.end > m.size || s.data != stored {
		return errs.E(errs.Corrupt, "sparse file of %d bytes: the map has %d bytes up to byte %d, the archive %d", m.size, s.data, s.end, stored)
	}
	return nil
}

// attributes takes extended attributes and access control lists.
func (a *Archive) attributes(m *member, r *records) error {
	xattrs := r.xattrs
	for i, name := range []string{"system.posix_acl_access", "system.posix_acl_default"} {
		if r.acls[i] == "" || slices.ContainsFunc(xattrs, func(x Xattr) bool { return x.Name == name }) {
			continue
		}
		value, err := aclXattr(r.acls[i])
		if err != nil {
			a.skip(m.path, err) // the file is there, without it
		} else if value != nil {
			xattrs = append(xattrs, Xattr{name, value})
		}
	}
	if len(xattrs) == 0 || m.kind == tarLink {
		return nil
	}
	if !slices.EqualFunc(xattrs, a.xattrs, func(x, y Xattr) bool { return x.Name == y.Name && bytes.Equal(x.Value, y.Value) }) {
		a.xattrs = xattrs
		for _, x := range xattrs {
			if err := a.charge(xattrBytes + int64(len(x.Name)+len(x.Value))); err != nil {
				return fatal{err}
			}
		}
	}
	if m.more == nil {
		m.more = &more{}
	}
	m.more.xattrs = a.xattrs
	return nil
}
