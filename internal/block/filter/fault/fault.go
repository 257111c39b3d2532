// Package fault is a filter that fails chosen operations: the n-th write of a
// range, every flush, the 17th I/O of any kind on any of several devices.
//
// It fails single calls. What a power cut leaves behind is package crash.
package fault

import (
	"sync"

	"cowl/internal/block"
	"cowl/internal/errs"
)

// Ops is a set of operations.
type Ops uint8

// The operations. Extents counts once a walk.
const (
	Read Ops = 1 << iota
	Write
	Flush
	Discard
	WriteZeroes
	Extents

	Changes = Write | Flush | Discard | WriteZeroes
	Any     = Changes | Read | Extents
)

// ErrInjected is the error of rules that have none of their own.
var ErrInjected = errs.E(errs.Other, "injected fault")

// Rule chooses operations to fail. The zero Rule fails the first of any kind.
type Rule struct {
	Device string // name given to Wrap; "" for all
	Ops    Ops    // 0 for Any

	// Off and Len choose what touches a range; a Len of 0 chooses everything.
	// Flushes have no range and are chosen whatever it is.
	Off, Len int64

	Nth    int   // counted from 1 over what matches; 0 is 1
	Always bool  // the n-th and all after it
	Err    error // ErrInjected if nil

	// After carries the operation out and then reports it as failed, as a disk
	// does that writes and dies before it answers. Without it nothing is done.
	After bool
}

// matches reports whether the rule chooses from operations like this one.
func (r *Rule) matches(device string, op Ops, off, length int64) bool {
	if r.Device != "" && r.Device != device || r.Ops != 0 && r.Ops&op == 0 {
		return false
	}
	return r.Len == 0 || op == Flush || off < r.Off+r.Len && r.Off < off+length
}

// Script is rules that devices share. Each rule counts on its own.
type Script struct {
	mu    sync.Mutex // guards all below
	rules []Rule
	seen  []int // by rule: matching operations
	calls int
	fired int
}

// New returns a script of the rules.
func New(rules ...Rule) *Script {
	return &Script{rules: rules, seen: make([]int, len(rules))}
}

// Add adds a rule, which counts from now on.
func (s *Script) Add(r Rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = append(s.rules, r)
	s.seen = append(s.seen, 0)
}

// Clear takes all rules away: everything works again.
func (s *Script) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules, s.seen = nil, nil
}

// Fired returns how many operations failed by the script. A test whose fault
// did not fire has tested nothing.
func (s *Script) Fired() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fired
}

// Calls returns how many operations there were on all devices.
func (s *Script) Calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

// check counts an operation; if it is to fail it returns the error, and whether
// the operation is to be carried out first.
func (s *Script) check(device string, op Ops, off, length int64) (err error, after bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	for i := range s.rules {
		r := &s.rules[i]
		if !r.matches(device, op, off, length) {
			continue
		}
		s.seen[i]++
		nth := max(r.Nth, 1)
		if err == nil && (s.seen[i] == nth || r.Always && s.seen[i] > nth) {
			err, after = r.Err, r.After
			if err == nil {
				err = ErrInjected
			}
		}
	}
	if err != nil {
		s.fired++
	}
	return err, after
}

// Wrap returns the device under the script's control. Closing it closes the
// device.
func (s *Script) Wrap(name string, below block.Device) *Device {
	return &Device{script: s, name: name, below: below}
}
