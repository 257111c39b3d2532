package archive

import (
	"encoding/binary"
	"strconv"
	"strings"

	"cowl/internal/errs"
)

// aclTags are those of acl(5), by the words of its text form; of a user or group
// who is named, the second.
var aclTags = map[string][2]uint16{"user": {0x01, 0x02}, "group": {0x04, 0x08}, "mask": {0x10, 0}, "other": {0x20, 0}}

const (
	aclXattrVersion = 2
	aclNoID         = ^uint32(0)
	aclMinimal      = 3 // entries: what the mode says as well
)

// aclXattr turns an access control list in words ("user::rw-,user:1000:r--"), as
// other programs archive it, into the value of its extended attribute, nil if
// it says no more than a mode. Users are numbers, in the second field or, as
// star has it, behind the permissions: names are of another machine.
func aclXattr(text string) ([]byte, error) {
	out := binary.LittleEndian.AppendUint32(nil, aclXattrVersion)
	entries := 0
	for field := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		field, _, _ = strings.Cut(field, "#") // what is effective, as a comment
		parts := strings.Split(strings.TrimSpace(field), ":")
		if len(parts) == 2 { // "mask:rwx"
			parts = []string{parts[0], "", parts[1]}
		}
		if len(parts) < 3 {
			return nil, errs.E(errs.Corrupt, "access control list: %q is no entry", field)
		}
		tags, known := aclTags[parts[0]]
		id, tag := aclNoID, tags[0]
		if who := parts[1]; who != "" {
			if len(parts) > 3 {
				who = parts[3]
			}
			n, err := strconv.ParseUint(who, 10, 32)
			if err != nil {
				return nil, errs.E(errs.Unsupported, "access control list: %s is a name, and no number", who)
			}
			id, tag = uint32(n), tags[1]
		}
		if !known || tag == 0 {
			return nil, errs.E(errs.Corrupt, "access control list: %q is no entry", field)
		}
		out = binary.LittleEndian.AppendUint16(out, tag)
		out = binary.LittleEndian.AppendUint16(out, permissions(parts[2]))
		out = binary.LittleEndian.AppendUint32(out, id)
		entries++
	}
	if entries <= aclMinimal {
		return nil, nil
	}
	return out, nil
}

func permissions(text string) (bits uint16) {
	for i, letter := range "xwr" {
		if strings.ContainsRune(text, letter) {
			bits |= 1 << i
		}
	}
	return bits
}
