package backup

import "sync/atomic"

// Phase is a part of the work whose progress is shown.
type Phase string

// The phases, in the order in which they come.
const (
	Reading   Phase = "read"    // volume to image
	Verifying Phase = "verify"  // image read back, or before a restore
	Writing   Phase = "write"   // image to volume
	Checking  Phase = "compare" // volume read back
)

// Reporter is told what goes on. Its methods may be called from several
// goroutines; nil functions are not called.
type Reporter struct {
	// Progress says how far a phase is. total is 0 while it is not known.
	Progress func(phase Phase, done, total int64)
	// Begin says that the n-th of several volumes, counted from 0, is next.
	Begin func(volume string, n, of int)
	// Note is for people: one sentence, as soon as it is known.
	Note func(text string)
}

func (r *Reporter) note(text string) {
	if r.Note != nil {
		r.Note(text)
	}
}

// phase returns a function that counts the bytes of a phase.
func (r *Reporter) phase(p Phase, total int64) func(bytes int64) {
	if r.Progress == nil {
		return func(int64) {}
	}
	var done atomic.Int64
	r.Progress(p, 0, total)
	return func(bytes int64) { r.Progress(p, done.Add(bytes), total) }
}

// absolute returns a function that is told how far a phase is, nil if nobody
// wants to know.
func (r *Reporter) absolute(p Phase) func(done, total int64) {
	if r.Progress == nil {
		return nil
	}
	return func(done, total int64) { r.Progress(p, done, total) }
}
