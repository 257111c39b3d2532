package volume

import (
	"strings"

	"cowl/internal/errs"
)

// uuidLen is the number of characters of a UUID without dashes.
const uuidLen = 32

// uuidAlphabet is what LVM2 makes identifiers of. Older versions of LVM2 also
// used ! and #, which are accepted and never generated.
const uuidAlphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// uuidGroups are the lengths of the dashed groups of the display form.
var uuidGroups = [...]int{6, 4, 4, 4, 4, 4, 6}

// UUIDFrom makes a UUID of 32 random bytes.
func UUIDFrom(random [uuidLen]byte) UUID {
	var b [uuidLen]byte
	for i, r := range random {
		b[i] = uuidAlphabet[int(r)%len(uuidAlphabet)]
	}
	return UUID(b[:])
}

// ParseUUID accepts the display form and the bare 32 characters. As in LVM2,
// dashes may stand anywhere.
func ParseUUID(text string) (UUID, error) {
	id := UUID(strings.ReplaceAll(text, "-", ""))
	if !id.Valid() {
		return "", errs.E(errs.Corrupt, "%q is not an LVM identifier (32 characters of 0-9, a-z, A-Z)", text)
	}
	return id, nil
}

// Valid reports whether the UUID has the right length and characters.
func (id UUID) Valid() bool {
	if len(id) != uuidLen {
		return false
	}
	for i := range len(id) {
		if c := id[i]; !isAlnum(c) && c != '!' && c != '#' {
			return false
		}
	}
	return true
}

// String returns the display form, in dashed groups of 6-4-4-4-4-4-6, as
// reports and the metadata text have it. What is stored in a PV header is
// string(id).
func (id UUID) String() string {
	if len(id) != uuidLen {
		return string(id)
	}
	var b strings.Builder
	rest := string(id)
	for i, n := range uuidGroups {
		if i > 0 {
			b.WriteByte('-')
		}
		b.WriteString(rest[:n])
		rest = rest[n:]
	}
	return b.String()
}

func isAlnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
