package archive

import (
	"bytes"
	"strconv"
	"strings"

	"cowl/internal/errs"
)

// moment is a time as it takes the least memory.
type moment struct {
	sec int64
	ns  uint32
}

// records is what extended headers say of the next entry, or of all that follow.
// Numbers are -1 where nothing is said.
type records struct {
	path, link          string
	size, uid, gid      int64
	mtime, atime, ctime *moment
	xattrs              []Xattr
	acls                [2]string // of access, the default; in words

	length   int64    // of the headers, in bytes
	sparse   spanList // of GNU's forms 0.0 and 0.1
	hasMap   bool
	offset   int64 // of the span whose length comes next
	version  [2]int64
	realSize int64
	realName string
}

func noRecords() records {
	return records{size: -1, uid: -1, gid: -1, realSize: -1, offset: -1, version: [2]int64{-1, -1}}
}

// maxLengthDigits is how many digits a record's length can have.
const maxLengthDigits = 10

// add takes what is in an extended header: "LENGTH KEY=VALUE\n", where the length
// is of all that.
func (r *records) add(b []byte) error {
	for len(b) > 0 {
		digits := bytes.IndexByte(b[:min(len(b), maxLengthDigits+1)], ' ')
		if digits < 0 {
			return errs.E(errs.Corrupt, "an extended header's record has no length")
		}
		n, err := strconv.ParseUint(string(b[:digits]), 10, 40)
		if err != nil || n > uint64(len(b)) || n < uint64(digits)+3 || b[n-1] != '\n' {
			return errs.E(errs.Corrupt, "an extended header's record of %s bytes does not end in a line's end", b[:digits])
		}
		key, value, ok := bytes.Cut(b[digits+1:n-1], []byte("="))
		if !ok {
			return errs.E(errs.Corrupt, "an extended header's record has no value")
		}
		if err := r.set(string(key), value); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// set takes one record. What is not known is left out.
func (r *records) set(key string, value []byte) (err error) {
	switch key {
	case "path":
		r.path, err = nameRecord(value)
	case "linkpath":
		r.link, err = nameRecord(value)
	case "size":
		r.size, err = decimal(value)
	case "uid":
		r.uid, err = decimal(value)
	case "gid":
		r.gid, err = decimal(value)
	case "mtime":
		r.mtime, err = timeRecord(value)
	case "atime":
		r.atime, err = timeRecord(value)
	case "ctime":
		r.ctime, err = timeRecord(value)
	case "SCHILY.acl.access":
		r.acls[0] = string(value)
	case "SCHILY.acl.default":
		r.acls[1] = string(value)
	case "RHT.security.selinux":
		err = r.xattr("security.selinux", value)
	default:
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			err = r.xattr(unescapes.Replace(name), value)
		} else if rest, ok := strings.CutPrefix(key, "GNU.sparse."); ok {
			err = r.gnuSparse(rest, value)
		}
	}
	return err
}

// unescapes is the reverse of escapes.
var unescapes = strings.NewReplacer("%25", "%", "%3D", "=")

// maxXattrs bounds how many attributes a file has. Linux lists no more than 64 KiB
// of their names.
const maxXattrs = 4096

// xattr takes an attribute, in the place of one that has its name.
func (r *records) xattr(name string, value []byte) error {
	for i := range r.xattrs {
		if r.xattrs[i].Name == name {
			r.xattrs[i].Value = bytes.Clone(value)
			return nil
		}
	}
	if len(r.xattrs) == maxXattrs {
		return errs.E(errs.Unsupported, "a file with more than %d attributes", maxXattrs)
	}
	r.xattrs = append(r.xattrs, Xattr{name, bytes.Clone(value)})
	return nil
}

// gnuSparse takes one of GNU tar's records on files with holes.
func (r *records) gnuSparse(key string, value []byte) (err error) {
	switch key {
	case "major":
		r.version[0], err = decimal(value)
	case "minor":
		r.version[1], err = decimal(value)
	case "name":
		r.realName, err = nameRecord(value)
	case "realsize", "size":
		r.realSize, err = decimal(value)
	case "offset":
		r.offset, err = decimal(value)
	case "numbytes":
		var n int64
		if n, err = decimal(value); err == nil {
			r.hasMap = true
			err = r.sparse.add(r.offset, n)
		}
	case "map":
		r.hasMap = true
		err = r.sparseMap(value)
	}
	return err
}

// sparseMap takes the map of GNU's form 0.1: offsets and lengths in turn, commas
// between them.
func (r *records) sparseMap(value []byte) error {
	r.sparse = spanList{}
	offset := int64(-1)
	for field := range bytes.SplitSeq(value, []byte(",")) {
		n, err := decimal(field)
		if err != nil {
			return err
		}
		if offset < 0 {
			offset = n
			continue
		}
		if err := r.sparse.add(offset, n); err != nil {
			return err
		}
		offset = -1
	}
	return nil
}

// nameRecord is a name, which has no NUL in it.
func nameRecord(value []byte) (string, error) {
	if bytes.IndexByte(value, 0) >= 0 {
		return "", errs.E(errs.Corrupt, "a name has a NUL byte in it")
	}
	if len(value) > maxName {
		return "", errTooLong(int64(len(value)))
	}
	return string(value), nil
}

// maxName bounds a name and a link's target, in bytes: 16 times what Linux takes.
const maxName = 64 << 10

func errTooLong(n int64) error {
	return errs.E(errs.Unsupported, "a name of %d bytes: %d is the most", n, maxName)
}

// decimal is a number that is not negative.
func decimal(value []byte) (int64, error) {
	n, err := strconv.ParseInt(string(value[:min(len(value), 32)]), 10, 64)
	if err != nil || n < 0 || len(value) > 32 {
		return 0, errs.E(errs.Corrupt, "%q is no number", value[:min(len(value), 32)])
	}
	return n, nil
}

// timeRecord is a time in seconds, with or without decimals.
func timeRecord(value []byte) (*moment, error) {
	whole, part, _ := strings.Cut(string(value[:min(len(value), 64)]), ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	var ns int64
	if err == nil && part != "" {
		ns, err = strconv.ParseInt((part + "000000000")[:9], 10, 64)
	}
	if err != nil || ns < 0 || sec > maxSeconds || sec < -maxSeconds {
		return nil, errs.E(errs.Corrupt, "%q is no time", value[:min(len(value), 64)])
	}
	if ns > 0 && strings.HasPrefix(whole, "-") {
		sec, ns = sec-1, 1e9-ns
	}
	return &moment{sec, uint32(ns)}, nil
}

// maxSeconds is as far from 1970 as a time can be and be computed with: 30,000
// years, which is also as far as JSON goes.
const maxSeconds = 250_000_000_000
