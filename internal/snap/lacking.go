package snap

import "math"

// Lacking returns how many chunks of the origin's range [off, off+length) have
// no exception: what a write of it would make the store take, at most.
func (s *Store) Lacking(off, length int64) (chunks int64) {
	chunks, _ = s.lacks(off, off+length, math.MaxInt64)
	return chunks
}
