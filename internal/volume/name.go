package volume

import (
	"iter"
	"strconv"
	"strings"

	"cowl/internal/errs"
)

// maxName is the longest name of a group, a volume or a tag, in bytes. The
// names of a volume and its group together are bounded by device-mapper's
// names as well.
const (
	maxName   = 127
	maxDMName = 127 // with hyphens doubled, and the separating one
)

// reservedPrefixes and reservedParts are the LV names that LVM2 keeps for its
// internal volumes, in the order in which it checks them.
var (
	reservedPrefixes = []string{"pvmove", "snapshot"}
	reservedParts    = []string{
		"_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_wcorig",
		"_mimage", "_mlog", "_rimage", "_rmeta", "_tdata", "_tmeta",
		"_vdata", "_vorigin", "_pmspare", "_imeta", "_iorig",
	}
)

// validChars reports whether the name is of LVM2's characters
// (a-z A-Z 0-9 + _ . -), does not begin with a hyphen, is neither "." nor ".."
// and neither empty nor too long.
func validChars(name string) bool {
	return nameFault(name) == ""
}

// nameFault says in LVM2's words what is wrong with a name, "" for nothing.
func nameFault(name string) string {
	switch {
	case name == "":
		return "Name is zero length."
	case len(name) > maxName:
		return "Name length exceeds maximum limit of 127."
	case name[0] == '-':
		return "Name cannot start with hyphen."
	case name == "." || name == "..":
		return "Name starts with . or .. and has no following character(s)."
	}
	for i := range len(name) {
		if c := name[i]; !isAlnum(c) && !strings.ContainsRune("+_.-", rune(c)) {
			return "Name contains invalid character, valid set includes: [a-zA-Z0-9.-_+]."
		}
	}
	return ""
}

// CheckGroupName returns an error of kind errs.Usage unless LVM2 would accept
// the name for a new group.
func CheckGroupName(name string) error {
	if fault := nameFault(name); fault != "" {
		return errs.E(errs.Usage, "%s\nNew volume group name %q is invalid.", fault, name)
	}
	return nil
}

// CheckLVName returns an error of kind errs.Usage unless LVM2 would accept
// the name for a new logical volume: valid characters and not reserved.
func CheckLVName(name string) error {
	if !validChars(name) {
		return errs.E(errs.Usage, "Logical volume name %q is invalid.", name)
	}
	for _, p := range reservedPrefixes {
		if strings.HasPrefix(name, p) {
			return errs.E(errs.Usage, "Names starting %q are reserved. Please choose a different LV name.", p)
		}
	}
	for _, p := range reservedParts {
		if strings.Contains(name, p) {
			return errs.E(errs.Usage, "Names including %q are reserved. Please choose a different LV name.", p)
		}
	}
	return nil
}

// CheckTag returns an error of kind errs.Usage unless the tag (without @) is
// one that LVM2 accepts.
func CheckTag(tag string) error {
	bad := tag == "" || len(tag) > 1024 || tag[0] == '-'
	for i := range len(tag) {
		if c := tag[i]; !isAlnum(c) && !strings.ContainsRune("_+.-/=!:&#", rune(c)) {
			bad = true
		}
	}
	if bad {
		return errs.E(errs.Usage, "Tag %q is invalid: use a-z, A-Z, 0-9 and _ + . - / = ! : & #", tag)
	}
	return nil
}

// DMName returns the name of a volume under /dev/mapper: group and volume with
// their hyphens doubled, joined by one.
func DMName(group, lv string) string {
	double := func(s string) string { return strings.ReplaceAll(s, "-", "--") }
	return double(group) + "-" + double(lv)
}

// numberAfter returns one more than the highest number that follows the prefix
// in a name, 0 if there is none. As LVM2, it is content with a number that has
// something behind it: after lvol7x comes lvol8.
func numberAfter(prefix string, names iter.Seq[string]) int {
	next := 0
	for name := range names {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		rest = strings.TrimPrefix(rest, "+")
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		// Nine digits are enough, and more would let a hostile name overflow.
		if n, err := strconv.Atoi(rest[:min(digits, 9)]); err == nil && n >= next {
			next = n + 1
		}
	}
	return next
}

func (g *Group) lvNames() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, lv := range g.LVs {
			if !yield(lv.Name) {
				return
			}
		}
	}
}

// NextLVName returns the name that LVM2 would give the next volume: lvolN.
func (g *Group) NextLVName() string { return "lvol" + strconv.Itoa(numberAfter("lvol", g.lvNames())) }

// nextSnapshotName returns the name of the next internal snapshot LV.
func (g *Group) nextSnapshotName() string {
	return "snapshot" + strconv.Itoa(numberAfter("snapshot", g.lvNames()))
}

// nextPVKey returns an unused metadata key. LVM2 numbers the PVs anew at each
// of its writes; cowl keeps the keys that it finds.
func (g *Group) nextPVKey() string {
	keys := func(yield func(string) bool) {
		for _, pv := range g.PVs {
			if !yield(pv.Key) {
				return
			}
		}
	}
	return "pv" + strconv.Itoa(numberAfter("pv", keys))
}
