package fault_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/filter/fault"
	"cowl/internal/block/mem"
)

func TestConformance(t *testing.T) {
	blocktest.Run(t, func(t *testing.T, size int64) block.Device {
		return fault.New().Wrap("d", mem.New(size))
	}, blocktest.Options{Zeroed: true, Steps: 300})
}

// program does one of everything, on two devices, and tells which calls failed.
func program(s *fault.Script) (failed string) {
	var all []string
	for _, name := range []string{"a", "b"} {
		all = append(all, calls(name, s.Wrap(name, mem.New(100)))...)
	}
	return strings.Join(all, " ")
}

func calls(name string, d block.Device) (failed []string) {
	check := func(op string, err error) {
		if err != nil {
			failed = append(failed, name+":"+op)
		}
	}
	for off := int64(0); off < 30; off += 10 {
		_, err := d.WriteAt([]byte("0123456789"), off)
		check(fmt.Sprint("write", off), err)
	}
	check("flush", d.Flush())
	_, err := d.ReadAt(make([]byte, 10), 10)
	check("read", err)
	check("discard", d.Discard(0, 5))
	check("zero", d.WriteZeroes(20, 5))
	for _, err := range d.Extents(0, 100) {
		check("extents", err)
	}
	return failed
}

func TestRules(t *testing.T) {
	const everything = 8
	for name, c := range map[string]struct {
		rules []fault.Rule
		want  string
	}{
		"none":                 {nil, ""},
		"zero rule":            {[]fault.Rule{{}}, "a:write0"},
		"third of any":         {[]fault.Rule{{Nth: 3}}, "a:write20"},
		"n runs over devices":  {[]fault.Rule{{Nth: everything + 1}}, "b:write0"},
		"one device":           {[]fault.Rule{{Device: "b"}}, "b:write0"},
		"one kind":             {[]fault.Rule{{Ops: fault.WriteZeroes}}, "a:zero"},
		"kinds":                {[]fault.Rule{{Ops: fault.Flush | fault.Read, Always: true}}, "a:flush a:read b:flush b:read"},
		"all changes from n":   {[]fault.Rule{{Ops: fault.Changes, Nth: 4, Always: true, Device: "a"}}, "a:flush a:discard a:zero"},
		"range":                {[]fault.Rule{{Ops: fault.Write, Off: 19, Len: 1, Always: true}}, "a:write10 b:write10"},
		"range that spans two": {[]fault.Rule{{Ops: fault.Write, Off: 9, Len: 2, Always: true, Device: "b"}}, "b:write0 b:write10"},
		"flush has no range":   {[]fault.Rule{{Ops: fault.Flush, Off: 50, Len: 1}}, "a:flush"},
		"two rules":            {[]fault.Rule{{Nth: 2}, {Ops: fault.Extents}}, "a:write10 a:extents"},
		"never":                {[]fault.Rule{{Nth: 2*everything + 1}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := fault.New(c.rules...)
			if failed := program(s); failed != c.want {
				t.Errorf("failed %q, want %q", failed, c.want)
			}
			if want := len(strings.Fields(c.want)); s.Fired() != want {
				t.Errorf("Fired() = %d, want %d", s.Fired(), want)
			}
			if s.Calls() != 2*everything {
				t.Errorf("Calls() = %d, want %d", s.Calls(), 2*everything)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	mine := errors.New("mine")
	s := fault.New(fault.Rule{Err: mine})
	s.Add(fault.Rule{Nth: 2})
	d := s.Wrap("d", mem.New(10))
	if n, err := d.WriteAt([]byte("x"), 0); n != 0 || !errors.Is(err, mine) {
		t.Errorf("first: %d, %v", n, err)
	}
	if n, err := d.ReadAt([]byte("x"), 0); n != 0 || !errors.Is(err, fault.ErrInjected) {
		t.Errorf("second: %d, %v", n, err)
	}
	s.Add(fault.Rule{Ops: fault.Write})
	if _, err := d.WriteAt([]byte("x"), 0); !errors.Is(err, fault.ErrInjected) {
		t.Errorf("added late: %v", err)
	}
}

// Whether a failed write has happened is for nobody to rely on, so both are on
// offer.
func TestBeforeOrAfter(t *testing.T) {
	for _, after := range []bool{false, true} {
		below := mem.New(10)
		d := fault.New(fault.Rule{After: after}).Wrap("d", below)
		if n, err := d.WriteAt([]byte("x"), 0); n != 0 || err == nil {
			t.Errorf("after %v: %d, %v", after, n, err)
		}
		if written := blocktest.ReadAll(t, below)[0] == 'x'; written != after {
			t.Errorf("after %v: written %v", after, written)
		}
	}
}
