package snap

// Lacking returns how many chunks of the origin's range [off, off+length) have
// no exception: what a write of it would make the store take, at most.
func (s *Store) Lacking(off, length int64) (chunks int64) {
	size := s.layout.ChunkBytes
	for end := off + length; off < end; {
		r := s.nextRun(off, end)
		if !r.excepted {
			chunks += (r.end()-1)/size - r.off/size + 1
		}
		off = r.end()
	}
	return chunks
}
