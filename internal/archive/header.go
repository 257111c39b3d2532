package archive

import (
	"bytes"
	"math"
	"strings"

	"cowl/internal/errs"
)

// Types of entries beside those that pax.go writes.
const (
	tarOldFile    = 0
	tarContiguous = '7'
	tarGlobal     = 'g' // records of all that follows
	tarExtraSun   = 'X' // what Solaris wrote before there was a standard
	gnuLongName   = 'L'
	gnuLongLink   = 'K'
	gnuSparse     = 'S'
	gnuDumpDir    = 'D' // a directory with a list of what was in it
	gnuVolume     = 'V' // the archive's label
	gnuContinued  = 'M' // of a file that began in another archive
)

// block is a header as it stands in an archive.
type header [tarBlock]byte

// The fields of a header, by offset. POSIX has a prefix of the name where GNU has
// times and the beginning of a sparse file's map.
func (h *header) name() string        { return text(h[0:100]) }
func (h *header) mode() []byte        { return h[100:108] }
func (h *header) uid() []byte         { return h[108:116] }
func (h *header) gid() []byte         { return h[116:124] }
func (h *header) size() []byte        { return h[124:136] }
func (h *header) mtime() []byte       { return h[136:148] }
func (h *header) checksum() []byte    { return h[148:156] }
func (h *header) kind() byte          { return h[156] }
func (h *header) link() string        { return text(h[157:257]) }
func (h *header) isPOSIX() bool       { return string(h[257:263]) == "ustar\x00" }
func (h *header) isGNU() bool         { return string(h[257:265]) == "ustar  \x00" }
func (h *header) major() []byte       { return h[329:337] }
func (h *header) minor() []byte       { return h[337:345] }
func (h *header) prefix() string      { return text(h[345:500]) }
func (h *header) gnuMap() []byte      { return h[386:482] }  // 4 spans
func (h *header) gnuMore() bool       { return h[482] != 0 } // blocks of the map follow
func (h *header) gnuRealSize() []byte { return h[483:495] }

// Of a block that goes on with a map: 21 spans.
func (h *header) moreMap() []byte { return h[:504] }
func (h *header) moreMore() bool  { return h[504] != 0 }

// path is the name with its prefix.
func (h *header) path() string {
	if h.isPOSIX() {
		if p := h.prefix(); p != "" {
			return p + "/" + h.name()
		}
	}
	return h.name()
}

func (h *header) isZero() bool { return *h == header{} }

// valid tells whether the checksum is right: over all bytes, blanks in its own
// place. Old programs took bytes for signed.
func (h *header) valid() bool {
	want, err := number(h.checksum())
	if err != nil {
		return false
	}
	var sum, signed int64
	for i, b := range h {
		if i >= 148 && i < 156 {
			b = ' '
		}
		sum += int64(b)
		signed += int64(int8(b))
	}
	return want == sum || want == signed
}

// Is tells whether a file that begins with head, of which 512 bytes are enough,
// may be an archive, or something that is compressed as archives are.
func Is(head []byte) bool {
	if CompressionOf(head) != None {
		return true
	}
	return len(head) >= tarBlock && (*header)(head).valid()
}

// text is a field up to its first NUL.
func text(field []byte) string {
	if i := bytes.IndexByte(field, 0); i >= 0 {
		field = field[:i]
	}
	return string(field)
}

// number decodes a numeric field: octal digits, or, if the first bit is set, two's
// complement in what follows, the most significant byte first.
func number(field []byte) (int64, error) {
	if field[0]&0x80 != 0 {
		return binaryNumber(field)
	}
	digits := strings.TrimLeft(string(field), " \x00")
	if i := strings.IndexAny(digits, " \x00"); i >= 0 {
		digits = digits[:i]
	}
	var v int64
	for _, d := range []byte(digits) { // 12 at most, which always fit
		if d < '0' || d > '7' {
			return 0, errs.E(errs.Corrupt, "%q is no octal number", digits)
		}
		v = v<<3 | int64(d-'0')
	}
	return v, nil
}

func binaryNumber(field []byte) (int64, error) {
	negative := field[0]&0x40 != 0
	var v uint64
	for i, b := range field {
		if i == 0 {
			b &= 0x7f
			if negative {
				b |= 0x80
			}
		}
		if negative {
			b = ^b
		}
		if v>>56 != 0 {
			return 0, errs.E(errs.Corrupt, "a number of more than 63 bits")
		}
		v = v<<8 | uint64(b)
	}
	if v > math.MaxInt64 {
		return 0, errs.E(errs.Corrupt, "a number of more than 63 bits")
	}
	if negative {
		return ^int64(v), nil
	}
	return int64(v), nil
}
