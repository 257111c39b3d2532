package ext4

// Fast commits stand behind the log proper: what has changed since the last
// full commit, said in terms of files and not of blocks.

const (
	fastHeader = 4 // tag and length
	fastHead   = 9 // a transaction's first fast commit begins with it
	fastTail   = 8 // and each of them ends with it
)

// FastScan reads the blocks for fast commits one by one, and finds out
// whether they hold any that a kernel would replay.
type FastScan struct {
	Transaction uint32 // the one after the last full commit
	started     bool
	sum         uint32
	found       bool
}

// Found tells whether there is a fast commit that was completed.
func (s *FastScan) Found() bool { return s.found }

// Block takes the next block; more says that the one after it belongs to the
// same fast commits.
func (s *FastScan) Block(b []byte) (more bool) {
	if !s.started && (len(b) < fastHeader || le.Uint16(b) != fastHead) {
		return false
	}
	s.started = true
	for len(b) >= fastHeader {
		tag, length := le.Uint16(b), int(le.Uint16(b[2:]))
		if length > len(b)-fastHeader || !s.tag(tag, b[:fastHeader+length]) {
			return false
		}
		b = b[fastHeader+length:]
	}
	return true
}

// tag takes one tag with its value, and returns false where nothing follows
// that counts.
func (s *FastScan) tag(tag uint16, b []byte) bool {
	value := b[fastHeader:]
	switch {
	case tag == fastHead:
		if len(value) < 8 || le.Uint32(value) != 0 || le.Uint32(value[4:]) != s.Transaction {
			return false
		}
	case tag == fastTail:
		if len(value) < 8 {
			return false
		}
		good := le.Uint32(value) == s.Transaction && le.Uint32(value[4:]) == CRC32C(s.sum, b[:fastHeader+4])
		s.found = s.found || good
		s.sum = 0
		return good
	case tag == 0 || tag > fastHead:
		return false
	}
	s.sum = CRC32C(s.sum, b)
	return true
}
