package cli

import (
	"path/filepath"
	"strings"

	"cowl/internal/errs"
)

// lvName is a volume as a person names it. LV is "" where a group is meant.
type lvName struct{ VG, LV string }

func (n lvName) String() string {
	if n.LV == "" {
		return n.VG
	}
	return n.VG + "/" + n.LV
}

// splitName reads VG, VG/LV, /dev/VG, /dev/VG/LV or /dev/mapper/VG-LV.
func splitName(arg string) (lvName, error) {
	invalid := errs.E(errs.Other, "%q: Invalid path for Logical Volume.", arg)
	if dm, ok := strings.CutPrefix(arg, "/dev/mapper/"); ok {
		n, ok := splitDM(dm)
		if !ok {
			return n, invalid
		}
		return n, nil
	}
	vg, lv, hasLV := strings.Cut(strings.TrimRight(strings.TrimPrefix(arg, "/dev/"), "/"), "/")
	if vg == "" || hasLV && lv == "" || strings.Contains(lv, "/") {
		return lvName{}, invalid
	}
	return lvName{VG: vg, LV: lv}, nil
}

// splitDM splits a device-mapper name, in which hyphens of names are doubled
// and a single one stands between group and volume.
func splitDM(name string) (lvName, bool) {
	const placeholder = "\x00"
	parts := strings.Split(strings.ReplaceAll(name, "--", placeholder), "-")
	if len(parts) != 2 || parts[0] == "" || parts[1] == "" {
		return lvName{}, false
	}
	undouble := func(s string) string { return strings.ReplaceAll(s, placeholder, "-") }
	return lvName{VG: undouble(parts[0]), LV: undouble(parts[1])}, true
}

// groupName reads the name of a group, "" not being one.
func groupName(arg string) (string, error) {
	name := strings.TrimRight(strings.TrimPrefix(arg, "/dev/"), "/")
	if name == "" || strings.Contains(name, "/") {
		return "", errs.E(errs.Usage, "Invalid volume group name %s.", arg)
	}
	return name, nil
}

// lvArg reads an argument that must name a volume. A name without a group is
// of the group in $LVM_VG_NAME.
func (a *app) lvArg(arg string) (lvName, error) {
	n, err := splitName(arg)
	if err != nil || n.LV != "" {
		return n, err
	}
	if vg := a.Getenv("LVM_VG_NAME"); vg != "" {
		return lvName{VG: vg, LV: n.VG}, nil
	}
	return n, errs.WithHint(errs.E(errs.Usage, "Path required for Logical Volume \"%s\"", arg), "Name it as VG/LV.")
}

// samePath reports whether two paths name the same file as far as their text
// goes.
func samePath(a, b string) bool {
	if a == b {
		return true
	}
	absA, errA := filepath.Abs(a)
	absB, errB := filepath.Abs(b)
	return errA == nil && errB == nil && absA == absB
}
