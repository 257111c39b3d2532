package forecast

import (
	"math/bits"
	"slices"
	"time"

	"cowl/internal/errs"
)

// Sizes is how many chunk sizes there are: 4 KiB, 8 KiB, ... 512 KiB, those
// that LVM2 allows.
const Sizes = 8

// ChunkBytes returns chunk size i.
func ChunkBytes(i int) int64 { return 1 << (pageShift + i) }

// Counts are numbers of chunks, one for each size.
type Counts [Sizes]int64

// Sample is how many different chunks were written to in one window.
type Sample struct {
	Count Counts `json:"count"`

	// Error is the standard error of Count as a share of it; 0 if it is exact.
	Error float32 `json:"error,omitempty"`

	// Least and Most bound Count where it could not be measured, because all
	// that is known is how often areas of the volume were written to. nil:
	// Count itself.
	Least *Counts `json:"least,omitempty"`
	Most  *Counts `json:"most,omitempty"`
}

// least returns the lower bound.
func (s *Sample) least(size int) int64 {
	if s.Least != nil {
		return s.Least[size]
	}
	return s.Count[size]
}

// most returns the upper bound.
func (s *Sample) most(size int) int64 {
	if s.Most != nil {
		return s.Most[size]
	}
	return s.Count[size]
}

// Window is what was seen in windows of one length. They do not overlap.
type Window struct {
	Slots   int64    `json:"slots"`   // its length
	Samples []Sample `json:"samples"` // the latest, in order of time
}

// Pattern is what is known of a volume's writes. The zero Pattern knows
// nothing. Time counts while somebody has the volume open: between two uses
// it stands still.
type Pattern struct {
	Slot    time.Duration `json:"slot_ns"` // the length of a slot
	Slots   int64         `json:"slots"`   // how many were watched, all in all
	Until   time.Time     `json:"until"`   // when the last one was over
	Windows []Window      `json:"windows"` // by length, ascending
}

// Watched returns for how long the volume was watched.
func (p *Pattern) Watched() time.Duration {
	if p == nil || p.Slot == 0 {
		return 0
	}
	return p.Slot * time.Duration(min(p.Slots, int64(maxWatched/p.Slot)))
}

// Bounds of what a Pattern may hold. Windows reach up to 2^(levels-1) slots,
// 36 hours of seconds.
const (
	levels     = 18
	remembered = 32 // samples of each length

	maxWatched = 100 * 365 * 24 * time.Hour
	maxCount   = 1 << 52 // 16 EiB in chunks of 4 KiB
)

// Validate returns errs.Corrupt unless a Recorder could have made the pattern:
// what was read from a file may say anything.
func (p *Pattern) Validate() error {
	if len(p.Windows) > levels+1 || p.Slots < 0 || p.Slot < 0 || p.Slot > time.Hour || len(p.Windows) > 0 && p.Slot < time.Millisecond {
		return errs.E(errs.Corrupt, "pattern of writes: %d windows of %d slots of %v", len(p.Windows), p.Slots, p.Slot)
	}
	last := int64(0)
	for i := range p.Windows {
		w := &p.Windows[i]
		if w.Slots <= last || w.Slots > 1<<levels || len(w.Samples) == 0 || len(w.Samples) > remembered {
			return errs.E(errs.Corrupt, "pattern of writes: window %d has %d slots and %d samples", i, w.Slots, len(w.Samples))
		}
		last = w.Slots
		for _, s := range w.Samples {
			if err := s.validate(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Sample) validate() error {
	ok := s.Error >= 0 && s.Error <= 10 // no NaN either
	for k := range Sizes {
		n := s.Count[k]
		ok = ok && 0 <= s.least(k) && s.least(k) <= n && n <= s.most(k) && s.most(k) <= maxCount
		// Chunks of twice the size are at most as many.
		ok = ok && (k == 0 || n <= s.Count[k-1])
	}
	if !ok {
		return errs.E(errs.Corrupt, "pattern of writes: impossible counts %v", s.Count)
	}
	return nil
}

// Clone returns a copy that shares nothing that is ever altered.
func (p *Pattern) Clone() *Pattern {
	if p == nil {
		return nil
	}
	c := *p
	c.Windows = slices.Clone(p.Windows)
	for i := range c.Windows {
		c.Windows[i].Samples = slices.Clone(c.Windows[i].Samples)
	}
	return &c
}

// history is the ladder of windows: what was touched in each slot climbs it,
// joined with its neighbour at every step, as a carry does in a binary counter.
// So it holds one window of each length, whose lengths are the binary digits
// of how many slots it has seen, and each is sampled once, when it is complete.
type history[T any] struct {
	join   func(a, b T) T
	sample func(T) Sample

	slots   int64 // watched, by predecessors too
	known   [levels][]Sample
	pending [levels]*T
	rest    Window // the longest window that a predecessor saw, if its length is none of ours
}

// load takes over what is known already.
func (h *history[T]) load(p *Pattern) {
	if p == nil {
		return
	}
	h.slots = p.Slots
	for _, w := range p.Windows {
		level := bits.Len64(uint64(w.Slots)) - 1
		if w.Slots == 1<<level && level < levels {
			h.known[level] = slices.Clone(w.Samples)
		} else {
			h.rest = Window{w.Slots, slices.Clone(w.Samples)}
		}
	}
}

// step adds a slot.
func (h *history[T]) step(x T) {
	h.slots++
	for level := range levels {
		list := append(h.known[level], h.sample(x))
		h.known[level] = slices.Delete(list, 0, max(0, len(list)-remembered))
		if h.pending[level] == nil {
			h.pending[level] = &x
			return
		}
		x = h.join(*h.pending[level], x)
		h.pending[level] = nil
	}
}

// pattern returns what is known.
func (h *history[T]) pattern(slot time.Duration) *Pattern {
	p := &Pattern{Slot: slot, Slots: h.slots}
	longest := int64(0)
	for level, samples := range h.known {
		if len(samples) > 0 {
			longest = 1 << level
			p.Windows = append(p.Windows, Window{longest, slices.Clone(samples)})
		}
	}
	rest := h.together()
	if h.rest.Slots > rest.Slots {
		rest = h.rest
	}
	if rest.Slots > longest {
		p.Windows = append(p.Windows, Window{rest.Slots, slices.Clone(rest.Samples)})
	}
	return p
}

// together is the window of all that is pending: the last slots, as many as
// there are since the start or the last complete window of the greatest length.
func (h *history[T]) together() Window {
	var all *T
	var w Window
	for level, x := range h.pending {
		switch {
		case x == nil:
			continue
		case all == nil:
			all = x
		default:
			joined := h.join(*all, *x)
			all = &joined
		}
		w.Slots += 1 << level
	}
	if all != nil {
		w.Samples = []Sample{h.sample(*all)}
	}
	return w
}
