package errs

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"
)

// A kind decides an exit code and an errno; wrapping must not hide it.
func TestKindOf(t *testing.T) {
	inner := E(NoSpace, "no extents")
	for name, tt := range map[string]struct {
		err  error
		want Kind
	}{
		"nil":                     {nil, Other},
		"plain":                   {fmt.Errorf("x"), Other},
		"its own":                 {inner, NoSpace},
		"wrapped":                 {fmt.Errorf("lvcreate: %w", inner), NoSpace},
		"classified anew":         {E(Busy, "y: %w", inner), Busy},
		"with a hint":             {WithHint(inner, "free some"), NoSpace},
		"not there":               {&fs.PathError{Op: "open", Err: syscall.ENOENT}, NotFound},
		"a full disk":             {fmt.Errorf("write: %w", syscall.ENOSPC), NoSpace},
		"refused by the system":   {syscall.EACCES, Denied},
		"in use, says the system": {syscall.EBUSY, Busy},
	} {
		if got := KindOf(tt.err); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
	if Is(nil, Other) {
		t.Error("nil is an error")
	}
}

func TestHintOf(t *testing.T) {
	deep := WithHint(E(NotFound, "no vg"), "vgs lists them")
	for _, tt := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{E(NotFound, "no vg"), ""},
		{fmt.Errorf("cowl: %w", deep), "vgs lists them"},
		{E(Busy, "again: %w", deep), "vgs lists them"},
		{WithHint(deep, "or look again"), "or look again"},
	} {
		if got := HintOf(tt.err); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.err, got, tt.want)
		}
	}
	if WithHint(nil, "x") != nil {
		t.Error("a hint made an error of nil")
	}
}

// Kinds cross the control socket by name.
func TestKindNames(t *testing.T) {
	for k := Other; k <= Denied; k++ {
		if got := ParseKind(k.String()); got != k {
			t.Errorf("%v came back as %v", k, got)
		}
	}
	if Kind(200).String() != "other" || ParseKind("nonsense") != Other {
		t.Error("unknown kinds are not Other")
	}
}

// A warning does not make what was done a failure, and does not hide one.
func TestOnlyWarnings(t *testing.T) {
	w, bad := Warning(errors.New("w")), errors.New("bad")
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false}, {bad, false}, {w, true}, {errors.Join(w, nil, w), true}, {errors.Join(w, bad), false},
		{WithHint(w, "h"), true}, {errors.Join(errors.Join(w), errors.Join(bad)), false}, {Warning(nil), false},
	} {
		if got := OnlyWarnings(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}
